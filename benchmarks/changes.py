"""Change the weights of finished files by 2 %, and keep what is told of it as JSON.

    python benchmarks/changes.py onnx               # every precision of one format
    python benchmarks/changes.py coreml --precisions int8

The file of a second model, which has weights 2 % greater for one class, gets the manifest of the
first: so the change is one that every format can store. Then `timmx verify` looks at it, with the
first file's record beside it and without. Half a minute for a precision.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch

from timmx_core import api
from timmx_core.backend import Artifact, Precision
from timmx_core.errors import RequestError, VerificationError
from timmx_core.files import manifest as manifests
from timmx_core.files import publishing
from timmx_core.files.inspection import CHANGED
from timmx_core.plugins.manager import get_manager
from timmx_core.random_weights.informative import make_informative
from timmx_core.testing.lab import Lab, copy, ports

RESULTS = Path(__file__).parent / "results"
MODEL, SIZE, TIMEOUT = "test_resnet", (3, 64, 64), 600.0


def model() -> torch.nn.Module:
    """The same each time it is made."""
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model(MODEL, num_classes=10).eval()
    make_informative(made, torch.randn(8, *SIZE), 0)
    return made


def nearly() -> torch.nn.Module:
    """The same, with weights 2 % greater for one class."""
    made = model()
    *_, layer = (part for part in made.modules() if isinstance(part, torch.nn.Linear))
    with torch.no_grad():
        layer.weight[0].mul_(1.02)
    return made


def try_precision(lab: Lab, precision: Precision) -> dict[str, Any]:
    """One file as it was exported, changed, and changed with its record beside it."""
    given: dict[str, Any] = {"precision": precision.name, "input_size": SIZE}
    if precision.calibrated:
        given |= {"random_calibration": True, "calibration_samples": 16}
    good = lab.export(model(), **given)
    primary, *companions = lab.files(nearly(), **given)
    folder = lab.fresh("changed")
    changed = Artifact(
        copy(primary, folder / primary.name),
        tuple(ports(good, "inputs")),
        tuple(ports(good, "outputs")),
        tuple(copy(path, folder / path.name) for path in companions),
    )
    if not lab.backend.embed(changed, manifests.dump(good.manifest)):
        raise SystemExit(f"{lab.backend.name} holds no manifest: its record tells of every byte")
    alone = api.verify(changed.primary, manager=lab.manager, timeout=TIMEOUT)
    publishing.record_path(changed.primary).write_bytes(manifests.dump(good.record))
    beside = api.verify(changed.primary, manager=lab.manager, timeout=TIMEOUT)
    return {
        "precision": precision.name,
        "floor_db": precision.floor_db,
        "exported": [good.verdict.status, _figure(good.verdict)],
        "changed_db": _figure(alone),
        "without_record": [alone.status, alone.reason, CHANGED in alone.reason],
        "with_record": [beside.status, beside.reason, CHANGED in beside.reason],
    }


def _figure(verdict: Any) -> float | None:
    worst = verdict.worst
    return None if worst is None else round(worst.snr_db, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format")
    parser.add_argument("--precisions", nargs="+", help="those that are tried anew")
    words = parser.parse_args()
    kind = type(get_manager().backend(words.format))
    others = [type(get_manager().backend(name)) for name in kind.derives]
    path = RESULTS / f"changes-{words.format}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lab = Lab(kind, others, {}, Path(folder), TIMEOUT)
        for precision in kind.precisions:
            if words.precisions and precision.name not in words.precisions:
                continue
            try:
                row = try_precision(lab, precision)
            except (RequestError, VerificationError) as refusal:
                print(f"{precision.name}: {refusal}", flush=True)  # too low for this model, or more
                continue
            print(row, flush=True)
            kept = [old for old in kept if old["precision"] != precision.name] + [row]
            content = {
                "format": words.format,
                "model": MODEL,
                "versions": manifests.versions_of(
                    ["timmx-core", f"timmx-{words.format}", "timm", "torch"]
                ),
                "rows": kept,
            }
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
