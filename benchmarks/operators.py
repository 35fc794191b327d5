"""How many operators of each kind a LiteRT file has, with and without what timmx takes out.

    python benchmarks/operators.py
    python benchmarks/operators.py --models resnet18

Rows are kept in `results/operators-litert.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from latency import FIVE  # type: ignore[import-not-found]

OUT = Path(__file__).parent / "results" / "operators-litert.json"


def counts(model: str, *, optimize: bool) -> dict[str, Any]:
    """Nodes, and operators by kind, of one file."""
    import timmx_core

    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "model.tflite")
        result = timmx_core.export("litert", model, output=output, verify=False, optimize=optimize)
    report = result.manifest["report"]
    return {"nodes": report["nodes"], "operators": report["operators"]}


def main() -> None:
    """Every model, saving after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(FIVE))
    chosen = parser.parse_args()
    content: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"rows": {}}
    content["command"] = "python benchmarks/operators.py"
    for model in chosen.models.split(","):
        row = {
            "before": counts(model, optimize=False),
            "after": counts(model, optimize=True),
        }
        content["rows"][model] = row
        print(model, {when: part["nodes"] for when, part in row.items()}, flush=True)
        OUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
