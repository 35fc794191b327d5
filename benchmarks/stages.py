"""Where the time of one export goes, by the clock, with the parts of a converter by name.

    python benchmarks/stages.py executorch --models resnet18,vit_tiny_patch16_224
    python benchmarks/stages.py litert

Parts are timed by wrapping their functions, so that nothing is slowed down; what is called within
another part counts in both. Each export is run by a process of its own. Rows are kept in
`results/stages-FORMAT.json`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
MODELS = "resnet18,vit_tiny_patch16_224"
XNNPACK = "executorch.backends.xnnpack"
# What is shown, the module, and the function or method in it.
PARTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "executorch": (
        ("capture", "torch.export", "export"),
        ("in operators that XNNPACK takes", "timmx_executorch.decompositions", "apply"),
        ("run_decompositions", "torch.export", "ExportedProgram.run_decompositions"),
        ("to_edge_transform_and_lower", "executorch.exir", "to_edge_transform_and_lower"),
        ("XNNPACK's passes", f"{XNNPACK}._passes", "XNNPACKPassManager.transform"),
        ("patterns of attention", f"{XNNPACK}.partition.graphs.sdpa", "get_graphs"),
        ("patterns of resizing", f"{XNNPACK}.partition.graphs.bilinear_2d", "get_graphs_dict"),
    ),
    "litert": (
        ("capture", "torch.export", "export"),
        ("run_decompositions", "torch.export", "ExportedProgram.run_decompositions"),
        ("litert-torch's passes", "litert_torch._convert.core", "_run_convert_passes"),
        ("lower to MLIR", "timmx_litert.converter", "_lower"),
        ("MLIR to LiteRT", "timmx_litert.converter", "_export"),
        ("take copies out", "timmx_litert.passes", "tidy"),
    ),
}
IMPORTS = {
    "executorch": ("executorch.exir", f"{XNNPACK}.partition.xnnpack_partitioner"),
    "litert": ("litert_torch",),
}


def timed(function: Callable[..., Any], spent: dict[str, list[float]], label: str) -> Any:
    """The same function, with its seconds noted, unless it is called within itself."""
    running = False

    @wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        nonlocal running
        if running:
            return function(*arguments, **options)
        running, start = True, time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            running = False
            spent.setdefault(label, []).append(time.perf_counter() - start)

    return wrapper


def export(format: str, model: str, weights: str, *, patterns: bool) -> dict[str, Any]:
    """Seconds, and how often, of each part of one export in this process."""
    from timmx_core.process.gc_tuning import seldom_collected

    spent: dict[str, list[float]] = {}
    begun = time.perf_counter()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(seldom_collected())
        import timm  # noqa: F401
        import torch  # noqa: F401

        spent["import torch and timm"] = [time.perf_counter() - begun]
        start = time.perf_counter()
        for name in IMPORTS[format]:
            importlib.import_module(name)
        spent["import the converter"] = [time.perf_counter() - start]
        for label, module, name in PARTS[format]:
            owner = importlib.import_module(module)
            *path, last = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            wrapped = timed(getattr(owner, last), spent, label)
            stack.enter_context(mock.patch.object(owner, last, wrapped))
        if patterns:
            from timmx_executorch import lowering

            name = "_no_needless_patterns"
            stack.enter_context(mock.patch.object(lowering, name, return_value=nullcontext()))
        from reference import suffix_of  # type: ignore[import-not-found]

        import timmx_core

        output = Path(folder) / f"model{suffix_of(format)}"
        timmx_core.export(format, model, output=str(output), checkpoint=weights)
    spent["whole export"] = [time.perf_counter() - begun]
    return {
        label: {"seconds": round(sum(values), 2), "times": len(values)}
        for label, values in spent.items()
    }


def in_process(format: str, model: str, weights: Path, *, patterns: bool) -> dict[str, Any]:
    """The same in a fresh process, of two runs the faster."""
    runs = []
    words = [sys.executable, __file__, format, "--child", model, "--weights", str(weights)]
    for _ in range(2):
        done = subprocess.run(
            [*words, *(["--patterns"] if patterns else [])], stdout=subprocess.PIPE, check=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return dict(min(runs, key=lambda row: row["whole export"]["seconds"]))


def main() -> None:
    """Each model, and for ExecuTorch once more with all of XNNPACK's patterns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=sorted(PARTS))
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="", help=argparse.SUPPRESS)
    parser.add_argument("--patterns", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        row = export(chosen.format, chosen.child, chosen.weights, patterns=chosen.patterns)
        print(json.dumps(row))
        return
    from latency import write_weights  # type: ignore[import-not-found]

    out = HERE / "results" / f"stages-{chosen.format}.json"
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    content["command"] = f"python benchmarks/stages.py {chosen.format}"
    for model in chosen.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            weights = write_weights(model, Path(folder))
            ways = {model: False}
            if chosen.format == "executorch":
                ways[f"{model}, all patterns"] = True
            for label, patterns in ways.items():
                row = in_process(chosen.format, model, weights, patterns=patterns)
                content["rows"][label] = row
                print(label, row, flush=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
