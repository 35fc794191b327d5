"""Try every injected fault on models of full size, and keep what became of each as JSON.

    python benchmarks/faults.py layers          # every parameter spoiled, in PyTorch
    python benchmarks/faults.py onnx            # structural faults and some layers, as files
    python benchmarks/faults.py torchscript --models resnet18

Finished rows are kept, so that a run can be continued; `--again` starts afresh. The tables of the
documentation are made from the JSON by `benchmarks/tables.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
# Threads that wait for each other on a busy machine; the verifying process inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fault_trials  # noqa: E402
import faults  # noqa: E402
import inline_worker  # noqa: E402
import numpy as np  # noqa: E402
import testdata  # noqa: E402
import torch  # noqa: E402

import timmx_core.verification.judge  # noqa: E402
from timmx_core.backend import Backend, LoadedModel  # noqa: E402
from timmx_core.files import manifest  # noqa: E402
from timmx_core.lifecycle.reference import Subject, load, make_subject  # noqa: E402
from timmx_core.models.inputs import pixels_to_input  # noqa: E402
from timmx_core.models.outputs import tensors_of  # noqa: E402
from timmx_core.models.plain import PLAIN  # noqa: E402
from timmx_core.plugins.manager import get_manager  # noqa: E402
from timmx_core.request import options  # noqa: E402
from timmx_core.verification.measure import measure  # noqa: E402

RESULTS = HERE / "results"
FLOOR = 80.0
# A CNN, a vision transformer, a hybrid of both with LayerScale; and real weights.
MODELS = ("resnet18", "vit_tiny_patch16_224", "edgenext_xx_small", "tf_efficientnet_lite0")
REAL = frozenset({"tf_efficientnet_lite0"})
# Of each model, every n-th parameter is also spoiled in real files.
SAMPLED = 4
# What stands behind each group of structural faults: a clean file with the same options.
CLEAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "softmax": {"softmax": True},
    "dynamic batch": {"dynamic_batch": True},
    "features": {"features": True},
}


class Results:
    """A JSON file that is saved after every row."""

    def __init__(self, path: Path, *, again: bool) -> None:
        self.path = path
        self.content: dict[str, Any] = {"rows": {}}
        if path.exists() and not again:
            self.content = json.loads(path.read_text("utf-8"))
        self.content["command"] = f"python benchmarks/faults.py {path.stem.removeprefix('faults-')}"
        self.rows: dict[str, Any] = self.content["rows"]

    def missing(self, *keys: str) -> bool:
        rows = self.rows
        for key in keys:
            if key not in rows:
                return True
            rows = rows[key]
        return False

    def add(self, value: Any, *keys: str) -> None:
        rows = self.rows
        for key in keys[:-1]:
            rows = rows.setdefault(key, {})
        rows[keys[-1]] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def versions(self, *distributions: str) -> None:
        names = {"timmx-core", "timm", "torch", *distributions}
        self.content["versions"] = manifest.versions_of(names)


def source_of(model: str, folder: Path) -> str:
    """What to give timmx for a model: real weights come as a folder."""
    if model not in REAL:
        return model
    place = folder / model
    if not place.exists():
        testdata.write_lite0(place)
    return f"local-dir:{place}"


# ---------------------------------------------------------------- every layer, in PyTorch


def run_layers(models: list[str], results: Results, folder: Path) -> None:
    """Spoil every parameter of the module that would be converted, one at a time."""
    results.versions()
    for model in models:
        subject, loaded = _loaded(source_of(model, folder))
        image = torch.randn(1, *loaded.example_inputs[0].shape[1:])
        good = _first(loaded.module, image)
        if results.missing(model, "clean"):
            results.add(_rate(subject, loaded), model, "clean")
            results.add("real" if model in REAL else "random", model, "weights")
        for name, values in faults.layer_weights(loaded.module).items():
            if not results.missing(model, "faults", name):
                continue
            row = {}
            for kind, change in faults.LAYER.items():
                with faults.spoiled(values, change) as changed:
                    if changed:
                        row[kind] = _rate(subject, loaded)
                        row[kind]["one_random_input"] = _cosine(good, _first(loaded.module, image))
            results.add(row, model, "faults", name)
        print(model, len(results.rows[model]["faults"]), "parameters", flush=True)


def _loaded(source: str) -> tuple[Subject, LoadedModel]:
    given = {"pretrained": source.startswith("local-dir:")}
    request = options.make_request(PLAIN, source, given)
    subject = make_subject(request, {"exportable": True})
    return subject, load(subject, request, PLAIN, None)


def _rate(subject: Subject, loaded: LoadedModel) -> dict[str, Any]:
    """The measure on PyTorch's own output, all outputs, the worst deciding."""
    image = torch.from_numpy(pixels_to_input(subject.pixels, loaded.inputs[0]))
    with torch.inference_mode():
        got = [output.numpy() for output in tensors_of(loaded.module(image))]
    rows = [
        measure(reference, array, len(array), FLOOR, "PyTorch")
        for reference, array in zip(subject.references, got, strict=True)
    ]
    worst = min(rows, key=lambda row: -1e9 if row.snr_db is None else row.snr_db)
    return {"status": worst.status, "snr_db": worst.snr_db, "reason": worst.reason}


def _first(module: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        array: np.ndarray = tensors_of(module(image))[0].double().numpy().ravel()
        return array


def _cosine(good: np.ndarray, got: np.ndarray) -> float | None:
    """Of the first output for one random input. None: no number, which is not below any limit."""
    if got.shape != good.shape:
        return -1.0
    cosine = float(good @ got / max(np.linalg.norm(good) * np.linalg.norm(got), 1e-300))
    return round(cosine, 6) if math.isfinite(cosine) else None


# ---------------------------------------------------------------- files


def run_files(backend: Backend, models: list[str], results: Results, folder: Path) -> None:
    """Clean files, structural faults, and a sample of spoiled parameters, through real files."""
    distributions = get_manager().row_of(backend.name)
    requirements = {r.split(">")[0].split("=")[0] for r in backend.requires}
    results.versions(*requirements, *([distributions.distribution] if distributions else []))
    for model in models:
        source = source_of(model, folder)
        for name, given in CLEAN.items():
            if results.missing(model, "clean", name):
                row = _clean(backend, source, given)
                results.add(row, model, "clean", name)
                print(model, "clean", name, row, flush=True)
        for fault in faults.STRUCTURAL:
            if results.missing(model, "structural", fault.name):
                row = _try(backend, source, fault)
                results.add(row, model, "structural", fault.name)
                print(model, fault.name, row["caught"], row["snr_db"], flush=True)
        for name, kind in _sample(source):
            if results.missing(model, "layers", f"{name} {kind}"):
                row = _try(backend, source, faults.in_layer(name, kind))
                results.add(row, model, "layers", f"{name} {kind}")
                print(model, name, kind, row["caught"], row["snr_db"], flush=True)


def _clean(backend: Backend, source: str, given: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / f"model{backend.suffixes[0]}"
        path = fault_trials.export(backend, source, target, accept_inconclusive=True, **given)
        verdict = fault_trials.record_of(path)["verdict"]
        again = fault_trials.verify(backend, path)
    rated = [m["snr_db"] for m in verdict["measurements"] if m["snr_db"] is not None]
    return {
        "status": verdict["status"],
        "snr_db": min(rated),
        "attainable_db": min(m["attainable_db"] for m in verdict["measurements"]),
        "verified_later": again.status,
    }


def _try(backend: Backend, source: str, fault: faults.Fault) -> dict[str, Any]:
    seen: list[float | None] = []

    def inject(loaded: LoadedModel) -> torch.nn.Module:
        torch.manual_seed(0)
        image = torch.randn(1, *loaded.example_inputs[0].shape[1:])
        good = _first(loaded.module, image)
        module = fault.inject(loaded)
        with torch.no_grad():
            seen.append(_cosine(good, _first(module, image)))
        return module

    with tempfile.TemporaryDirectory() as scratch:
        trial = fault_trials.try_fault(
            backend, source, replace(fault, inject=inject), Path(scratch)
        )
    later = trial.without_record
    return {
        "caught": trial.caught,
        "measured": trial.measured,
        "exit_code": trial.exported,
        "published": trial.published,
        "reason": trial.reason,
        "snr_db": trial.snr_db,
        "verify": None if trial.with_record is None else trial.with_record.status,
        "verify_without_record": None if later is None else later.status,
        "one_random_input": seen[0] if seen else None,
    }


def _sample(source: str) -> Iterator[tuple[str, str]]:
    """Parameters all through the model, each with another kind of fault."""
    _, loaded = _loaded(source)
    weights = faults.layer_weights(loaded.module)
    kinds = [kind for kind in faults.LAYER if kind != "rounded to fp16"]
    step = max(1, len(weights) // SAMPLED)
    names = list(weights)[step // 2 :: step][:SAMPLED]
    for index, name in enumerate(names):
        kind = kinds[index % len(kinds)]
        if faults.changes(name, weights[name], kind):
            yield name, kind


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", help='"layers", or a format')
    parser.add_argument("--models", default=",".join(MODELS), help="with commas")
    parser.add_argument("--again", action="store_true", help="run finished rows again")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    # Each export verifies in a process of its own; `verify` of the refused file, in this one.
    timmx_core.verification.judge.Worker = inline_worker.InlineWorker  # type: ignore[attr-defined,assignment,misc]
    models = chosen.models.split(",")
    results = Results(RESULTS / f"faults-{chosen.what}.json", again=chosen.again)
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.what == "layers":
            run_layers(models, results, Path(scratch))
        else:
            run_files(get_manager().backend(chosen.what), models, results, Path(scratch))


if __name__ == "__main__":
    main()
