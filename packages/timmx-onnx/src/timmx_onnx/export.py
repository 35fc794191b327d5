"""One export, from a loaded model to an ONNX file in staging."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from timmx_core.backend import Artifact, Comparison, Context, ExportRequest, LoadedModel
from timmx_core.errors import ExportError
from timmx_core.toolkit.batches import in_batches, least_batch
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB, distance_db, layers_are_nearer, run_probes
from timmx_core.toolkit.precision_search import MARGIN_DB
from timmx_onnx import converter, half, metadata, normalization, optimization, quantization, storage
from timmx_onnx.providers import CPU, EXACT_PRODUCTS
from timmx_onnx.runner import OnnxRunner

TRIED = 16  # calibration images on which that is found out


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Convert, lower the precision, write, check.

    :raises ExportError: names the operator that has no counterpart, and its module.
    """
    return _Export(model, request, context).run()


@dataclass
class _Made:
    """What the precision made of the graph."""

    graph: ir.Model
    comparisons: list[Comparison] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Export:
    def __init__(self, model: LoadedModel, request: ExportRequest, context: Context) -> None:
        self.loaded = model
        self.request = request
        self.context = context
        self.opset = int(request.options["opset"])

    def run(self) -> Artifact:
        made = self._lowered(self._converted())
        operators = converter.operators(made.graph)
        ir_version = made.graph.ir_version
        with self.context.stage("write the ONNX file"):
            stored = self._save(made.graph, self.context.primary)
            check_file(self.context.primary, stored.skeleton, self.opset)
        if stored.data is None and self.request.options["external_data"] == "always":
            made.notes.append(
                f"all weights are in the file: no tensor has {storage.LEAST_EXTERNAL} bytes, as "
                "those have that go into a file of their own"
            )
        return Artifact(
            primary=self.context.primary,
            inputs=self.loaded.inputs,
            outputs=self.loaded.outputs,
            companions=(stored.data,) if stored.data else (),
            comparisons=tuple(made.comparisons),
            report={
                "opset": self.opset,
                "ir_version": ir_version,
                "nodes": sum(operators.values()),
                "operators": operators,
                "external_data": stored.data.name if stored.data else None,
                **made.report,
            },
            notes=tuple(made.notes),
        )

    def _converted(self) -> ir.Model:
        model = self.loaded
        with self.context.stage("capture"):
            program = model.capture()
        with self.context.stage("convert to ONNX"):
            graph = converter.convert(
                program, [i.name for i in model.inputs], [o.name for o in model.outputs], self.opset
            )
        return self._optimised(graph)

    def _optimised(self, graph: ir.Model) -> ir.Model:
        """The graph made faster; as it was where that spoils it."""
        better = graph.clone()
        passes = (
            *(optimization.fold_scales, optimization.fold_pads),
            normalization.expand_group_norms,
        )
        if not sum(each(better) for each in passes):
            return graph
        with self.context.stage("optimise"):
            reached = self._rate(better)
            # Where the graph as it was falls short as well, the nearer one is the better.
            good = reached >= FLOAT_FLOOR_DB + MARGIN_DB or reached > self._rate(graph)
            return better if good else graph

    def _lowered(self, graph: ir.Model) -> _Made:
        name = self.request.precision.name
        if name == "fp16":
            with self.context.stage("cast to fp16"):
                return self._cast(graph)
        if name == "int8":
            optimization.pool_means(graph)
            return self._quantized(graph, self._static)
        if name == "dynamic-int8":
            return self._quantized(graph, self._dynamic)
        return _Made(graph)

    # ---- fp16

    def _cast(self, graph: ir.Model) -> _Made:
        """fp16, with whatever must stay in fp32 kept there."""
        large = half.too_large(graph, self._largest(graph))
        floor = self.request.precision.floor_db
        settled = half.settle_cast(graph, large, self._rate, floor)
        emulated = self._scratch("emulated")
        self._save(settled.emulated, emulated)
        kept = half.describe(graph, settled.kept)
        notes = [f"kept in fp32: {kept}"] if kept else []
        return _Made(
            settled.model,
            [Comparison("in simulated fp16 arithmetic", got=emulated)],
            {"kept_in_fp32": list(settled.kept)},
            notes,
        )

    def _largest(self, graph: ir.Model) -> dict[str, float]:
        watched, about = half.watched(graph)
        path = self._scratch("watched")
        self._save(watched, path)
        try:
            return half.largest_results(path, about, self._batches())
        finally:
            self._discard(path)

    # ---- int8

    def _quantized(self, graph: ir.Model, quantize: Callable[[Path, Path], _Made]) -> _Made:
        """Quantize a float file, and leave that to be judged by itself."""
        plain = self._scratch("float")
        if storage.save(graph, plain, "auto").data is not None:
            raise ExportError(
                f"--precision {self.request.precision.name} cannot be had of a model of over 2 GB: "
                "onnxruntime's quantizer holds it in one protobuf message",
                "leave it in --precision fp16",
            )
        with self.context.stage("quantize"), scratch(self.context.staging) as folder:
            made = quantize(plain, folder)
        converter.strip(made.graph)
        made.comparisons.append(Comparison("float file", got=plain, floor_db=FLOAT_FLOOR_DB))
        made.notes.append(
            f"open it with {'='.join(EXACT_PRODUCTS)}, as its snippet does: onnxruntime's 8-bit "
            "products overflow on x86 processors without VNNI"
        )
        weights = made.graph.graph.initializers.values()
        if not any(value.dtype == ir.DataType.INT8 for value in weights):
            raise ExportError(
                f"no weight of the model is large enough for --precision "
                f"{self.request.precision.name}",
                "leave it in --precision fp16",
            )
        return made

    def _dynamic(self, plain: Path, folder: Path) -> _Made:
        return _Made(quantization.quantize_dynamic(plain, folder))

    def _static(self, plain: Path, folder: Path) -> _Made:
        """In integers throughout, unless the file comes nearer with the layers alone in them."""
        method = self.request.options["calibration_method"]
        images = list(self.context.calibration(self._batch()))
        ranges = quantization.calibrate(plain, images, method, folder)
        want = self._answers(plain, images)
        rated = []
        for between in (quantization.BETWEEN, ()):
            operators = (*quantization.LAYERS, *between)
            model = quantization.insert_qdq(plain, ranges, operators=operators)
            path = self._scratch("attempt")
            self._save(model.clone(), path)
            rated.append((distance_db(want, self._answers(path, images)), operators, model))
            self._discard(path)
        (whole_db, *_), (layers_db, *_) = rated
        snr_db, operators, model = rated[layers_are_nearer(whole_db, layers_db)]
        kinds = sorted(set(operators) & {node.op_type for node in model.graph})
        notes = []
        if "Add" not in operators and layers_are_nearer(whole_db, layers_db):
            notes.append(
                f"only layers are in int8: {layers_db:.1f} dB on the calibration images, instead "
                f"of {whole_db:.1f} with what stands between them"
            )
        report = {
            "quantized": kinds,
            "calibration_method": method,
            "calibration_snr_db": round(snr_db, 2),
        }
        return _Made(model, report=report, notes=notes)

    def _answers(self, path: Path, images: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        """What a file gives for some of the calibration images, output by output."""
        some = images[: max(1, TRIED // self._batch())]
        with OnnxRunner(path, (CPU,)) as runner:
            rows = [runner.run(batch) for batch in some]
        return [np.concatenate([row[o.name] for row in rows]) for o in self.loaded.outputs]

    # ---- trials

    def _rate(self, graph: ir.Model) -> float:
        """How near a graph comes to PyTorch, over the images of the verification."""
        path = self._scratch("attempt")
        self._save(graph.clone(), path)
        try:
            return self.rate_file(path)
        finally:
            self._discard(path)

    def rate_file(self, path: Path) -> float:
        """Likewise, a file."""
        port = self.loaded.inputs[0]
        with OnnxRunner(path, (CPU,)) as runner:
            outputs = run_probes(runner, {port.name: self.context.probes(port)}, self._batch())
        return self.context.snr_db(outputs)

    def _batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The images of the verification, as many at a time as the file takes."""
        port = self.loaded.inputs[0]
        for images in in_batches(self.context.probes(port), self._batch()):
            yield {port.name: images}

    def _batch(self) -> int:
        return least_batch(self.loaded.inputs[0])

    # ---- files

    def _scratch(self, name: str) -> Path:
        folder = self.context.staging / name
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.onnx"

    def _save(self, graph: ir.Model, path: Path) -> storage.Stored:
        """Write, and take the weights out of the graph."""
        return storage.save(graph, path, self.request.options["external_data"])

    def _discard(self, path: Path) -> None:
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()


@contextmanager
def scratch(staging: Path) -> Iterator[Path]:
    """A folder in staging, where the quantizer's temporary files lie, too."""
    folder = staging / "quantizer"
    folder.mkdir()
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder)


def check_file(path: Path, skeleton: bytes, opset: int) -> None:
    """Check the written file: its opset, and the whole of onnx's rules with strict inference.

    :param skeleton: the model with its weights left where they lie: onnx would hold them twice.
    :raises ExportError: the file breaks them.
    """
    import onnx

    written = metadata.read_header(path).opset
    if written != opset:
        raise ExportError(f"the file declares opset {written}, where {opset} was asked for")
    bones = path.with_name(f"skeleton-{path.name}")
    bones.write_bytes(skeleton)
    try:
        onnx.checker.check_model(str(bones), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"onnx finds the file invalid: {reason}") from error
    finally:
        bones.unlink()
