"""The ONNX file that a builder is given, in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from timmx_core.backend import Artifact, Comparison, Context, ExportRequest, TensorSpec
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError
from timmx_core.toolkit.batches import least_batch
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB, run_probes
from timmx_onnx import fp16, half, quantization, storage
from timmx_onnx.constants import array_of
from timmx_onnx.export import check_file, scratch
from timmx_onnx.providers import CPU
from timmx_onnx.runner import OnnxRunner
from timmx_tensorrt import pixels, qdq
from timmx_tensorrt.reference import OnnxReference

GIVEN = "ONNX given to the builder"
EXTERNAL = "auto"
# TensorRT 10.0 reads up to opset 20, 10.15 up to 24 (`docs/operators.md` of its parser). Layers of
# bfloat16 are in ONNX from 22 on.
OPSET, OPSET_BF16 = 20, 22


@dataclass
class Source:
    """The file, and what can be said of it here."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    companions: tuple[Path, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def make_source(request: ExportRequest, context: Context) -> Source:
    """Export by timmx-onnx, and go on from its file.

    :raises ExportError: the model cannot be had in that precision.
    """
    return _Maker(request, context).make()


class _Maker:
    def __init__(self, request: ExportRequest, context: Context) -> None:
        self.request = request
        self.context = context
        self.precision = request.precision.name

    def make(self) -> Source:
        ways: Mapping[str, Callable[[], Source]] = {
            "fp32": self._float,
            "tf32": self._float,
            "fp16": self._half,
            "bf16": self._brain,
            "int8": self._quantized,
            "fp8": self._quantized,
        }
        source = ways[self.precision]()
        source.comparisons = tuple(
            replace(c, inputs=source.inputs, outputs=source.outputs) for c in source.comparisons
        )
        return source

    # ---- each precision

    def _float(self) -> Source:
        derived = self._derived("fp32")
        # TF32 is the GPU's alone: what it starts from is float32.
        label = GIVEN if self.precision == "fp32" else f"{GIVEN}, in fp32"
        given = _opened_as_onnx(Comparison(label, derived.primary, floor_db=FLOAT_FLOOR_DB))
        return _of(derived, (given,))

    def _half(self) -> Source:
        derived = self._derived("fp16")
        compared = (Comparison(GIVEN, got=derived.primary), *derived.comparisons)
        return _of(derived, tuple(_opened_as_onnx(c) for c in compared))

    def _brain(self) -> Source:
        """onnxruntime has no kernels for bfloat16, so its rounding is emulated in float32."""
        derived = self._derived("fp32")
        with self.context.stage("cast to bf16"):
            settled = half.settle_cast(
                ir.load(derived.primary),
                (),
                lambda graph: self._rate(derived, graph),
                self.request.precision.floor_db,
                to=fp16.BFLOAT16,
            )
            emulated = self._save(settled.emulated, "emulated").path
            kept = half.describe(settled.model, settled.kept)
            made = self._save(settled.model, "given")
            check_file(made.path, made.skeleton, int(derived.report["opset"]))
        source = _of(
            derived,
            (
                _opened_as_onnx(Comparison("in simulated bf16 arithmetic", emulated)),
                _float_file(derived),
            ),
        )
        source.path, source.companions = made.path, made.companions
        source.report["kept_in_fp32"] = list(settled.kept)
        if kept:
            source.notes += (f"kept in fp32: {kept}",)
        return source

    def _quantized(self) -> Source:
        derived = self._derived("fp32")
        if derived.companions:
            raise ExportError(
                f"--precision {self.precision} cannot be had of a model of over 2 GB: "
                "onnxruntime's quantizer holds it in one protobuf message",
                "leave it in --precision fp16",
            )
        with self.context.stage("quantize"), scratch(self.context.staging) as folder:
            graph = self._insert(derived, folder)
        if not any(node.op_type == qdq.QUANTIZE for node in graph.graph):
            raise ExportError(
                f"the model has no layer for --precision {self.precision}",
                "leave it in --precision fp16",
            )
        emulated = self._save(qdq.emulate(graph), "emulated").path
        made = self._save(graph, "given")
        check_file(made.path, made.skeleton, int(derived.report["opset"]))
        comparisons = [
            _opened_as_onnx(Comparison(f"in simulated {self.precision} arithmetic", emulated)),
            _float_file(derived),
        ]
        source = _of(derived, ())
        trouble = refusal(made.path)
        source.report["onnxruntime_refuses"] = trouble
        if trouble is None:
            # By this format's own reference, without the fusions that mistake 8 bits.
            comparisons.insert(0, Comparison(GIVEN, made.path))
        source.comparisons = tuple(comparisons)
        source.path, source.companions = made.path, made.companions
        return source

    def _insert(self, derived: Artifact, folder: Path) -> ir.Model:
        """Q/DQ around layers with weights, in int8 or float8."""
        method = self.request.options["calibration_method"]
        plain = ir.load(derived.primary)
        images = self.context.calibration(least_batch(derived.inputs[0]))
        ranges = quantization.calibrate(derived.primary, images, method, folder)
        graph = quantization.insert_qdq(
            derived.primary,
            ranges,
            operators=qdq.LAYERS,
            exclude=qdq.products_of_activations(plain),
            symmetric=True,
            inputs_only=True,
        )
        if self.precision == "fp8":
            weights = {n: array_of(v) for n, v in plain.graph.initializers.items()}
            qdq.to_float8(graph, weights)
        return graph

    # ---- files

    def _derived(self, precision: str) -> Artifact:
        """The file of timmx-onnx, with a cast of pixels where TensorRT takes it."""
        opset = OPSET_BF16 if self.precision == "bf16" else OPSET
        derived = self.context.derive("onnx", precision, opset=opset)
        if all(port.dtype != "uint8" for port in derived.inputs):
            return derived
        graph = ir.load(derived.primary)
        if not pixels.cast_first(graph):
            return derived
        made = self._save(graph, "pixels")
        check_file(made.path, made.skeleton, int(derived.report["opset"]))
        return replace(derived, primary=made.path, companions=made.companions)

    def _save(self, graph: ir.Model, folder: str) -> _Saved:
        place = self.context.staging / folder
        place.mkdir(exist_ok=True)
        path = place / (self.context.primary.stem + ".onnx")
        stored = storage.save(graph, path, EXTERNAL)
        return _Saved(path, (stored.data,) if stored.data else (), stored.skeleton)

    def _rate(self, derived: Artifact, graph: ir.Model) -> float:
        """How near a graph comes to PyTorch, over the images of the verification."""
        path = self._save(graph.clone(), "attempt").path
        port = derived.inputs[0]
        probes: Mapping[str, np.ndarray] = {port.name: self.context.probes(port)}
        try:
            with OnnxRunner(path, (CPU,)) as runner:
                return self.context.snr_db(run_probes(runner, probes, least_batch(port)))
        finally:
            for file in path.parent.iterdir():
                file.unlink()
            path.parent.rmdir()


@dataclass(frozen=True)
class _Saved:
    path: Path
    companions: tuple[Path, ...]
    skeleton: bytes


def _of(derived: Artifact, comparisons: tuple[Comparison, ...]) -> Source:
    """What timmx-onnx made, as it is."""
    report = {name: value for name, value in derived.report.items() if name != "external_data"}
    return Source(
        derived.primary,
        derived.inputs,
        derived.outputs,
        derived.companions,
        comparisons,
        {"onnx": report},
        derived.notes,
    )


def _opened_as_onnx(comparison: Comparison) -> Comparison:
    """With all of onnxruntime's optimisations, as files of timmx-onnx are."""
    return replace(comparison, formats=("onnx", "onnx"))


def _float_file(derived: Artifact) -> Comparison:
    return _opened_as_onnx(Comparison("float file", got=derived.primary, floor_db=FLOAT_FLOOR_DB))


def refusal(path: Path) -> str | None:
    """Why onnxruntime does not take a quantized file; None where it does."""
    try:
        with OnnxReference(path):
            return None
    except (ArtifactError, CannotRunHere) as error:
        return error.message
