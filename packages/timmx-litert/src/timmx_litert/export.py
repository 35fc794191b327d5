"""One export, from a loaded model to a LiteRT file in staging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from timmx_core.backend import (
    Artifact,
    Comparison,
    Context,
    ExportRequest,
    LoadedModel,
    TensorSpec,
)
from timmx_core.errors import ExportError
from timmx_core.toolkit.batches import least_batch
from timmx_core.toolkit.capture import Capturer
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB, distance_db, layers_are_nearer
from timmx_core.toolkit.precision_search import MARGIN_DB
from timmx_core.toolkit.threads import usable_threads
from timmx_litert import (
    batching,
    container,
    converter,
    delegates,
    description,
    passes,
    quantization,
)
from timmx_litert.graph import Graph
from timmx_litert.request import check_samples
from timmx_litert.runner import LiteRTRunner

TRIED = 16  # calibration images on which that is found out
LARGEST = (1 << 31) - (64 << 20)  # bytes of a flatbuffer, less what is added later

Batch = Mapping[str, np.ndarray]


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Convert, lower the precision, describe, write.

    :raises ExportError: names the operator that has no counterpart, and its module.
    """
    return _Export(model, request, context).run()


@dataclass
class _Made:
    """What the precision made of the graph."""

    graph: Graph
    comparisons: list[Comparison] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Export:
    def __init__(self, model: LoadedModel, request: ExportRequest, context: Context) -> None:
        self.loaded = model
        self.request = request
        self.context = context
        self.passes: dict[str, int] = {}

    def run(self) -> Artifact:
        precision = self.request.precision
        images = self._images() if precision.calibrated else []
        made = self._lowered(self._converted(), images)
        with self.context.stage("write the LiteRT file"):
            operators = made.graph.counts()
            inputs = [self._port(made.graph, s, made.graph.inputs) for s in self.loaded.inputs]
            outputs = [self._port(made.graph, s, made.graph.outputs) for s in self.loaded.outputs]
            self._describe(made.graph, inputs, outputs)
            _write(self.context.primary, made.graph.pack())
        counts = {"nodes": sum(operators.values()), "operators": operators}
        made.report = {**counts, "optimised": self.passes, **made.report}
        if self.request.options["report"]:
            with self.context.stage("look at the delegates"):
                self._look(made)
        return Artifact(
            primary=self.context.primary,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            comparisons=tuple(made.comparisons),
            report=made.report,
            notes=tuple(made.notes),
        )

    def _converted(self) -> Graph:
        if self.request.dynamic_batch:
            two, three = (self._converted_as(n) for n in (batching.TWO, batching.THREE))
            graph = batching.join(two, three, self.request.batch[1])
        else:
            graph = self._converted_as(None)
        graph.name_tensors()  # what was added on the way, too: the quantizer goes by names
        return graph

    def _converted_as(self, batch: int | None) -> Graph:
        """The model for its own batch size, or for another."""
        model = self.loaded
        capture, label = model.capture, ""
        if batch is not None:
            images = tuple(batching.repeated(image, batch) for image in model.example_inputs)
            capture, label = Capturer(model.module, images, (batch,) * 3), f" for batch {batch}"
        with self.context.stage(f"capture{label}"):
            program = capture()
        with self.context.stage(f"convert to LiteRT{label}"):
            data = converter.convert(
                program, [i.name for i in model.inputs], [o.name for o in model.outputs]
            )
            graph = Graph(data)
        graph.name_tensors()
        return self._tidied(graph)

    def _tidied(self, graph: Graph) -> Graph:
        """The graph made faster; as it was where that spoils it."""
        if not self.request.options["optimize"]:
            return graph
        before = graph.pack()
        self.passes = passes.tidy(graph)
        if not self.passes:
            return graph
        with self.context.stage("optimise"):
            port = self.loaded.inputs[0]
            fits = graph.shape(graph.inputs[port.name])
            images = self.context.probes(port)
            batches = [
                {port.name: images[np.arange(i, i + fits[0]) % len(images)]}
                for i in range(0, len(images), fits[0])
            ]
            want, got = (self._answers(data, batches) for data in (before, graph.pack()))
        if distance_db(want, got) >= FLOAT_FLOOR_DB + MARGIN_DB:
            return graph
        self.passes = {}
        return Graph(before)

    # ---- what is said of the file

    def _look(self, made: _Made) -> None:
        """What delegates take of it, as notes and in the report."""
        outside = delegates.outside_xnnpack(self.context.primary)
        warnings = delegates.gpu_warnings(self.context.primary)
        made.report |= {"outside_xnnpack": outside, "gpu_warnings": warnings}
        made.notes += [
            f"operators: {_listed(made.report['operators'])}",
            f"outside XNNPACK: {_listed(outside) or 'none'}",
            *(f"GPU: {warning}" for warning in warnings or ["LiteRT's analyser objects to none"]),
        ]

    # ---- what the file says of itself

    def _describe(
        self, graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        graph.model.description = b"timmx"
        graph.model.metadata = [m for m in graph.model.metadata or () if b"min_" in m.name]
        table = description.build(inputs[0], outputs, self.loaded.labels)
        graph.add_metadata(description.NAME, table)
        graph.add_metadata(container.MARK, b"1")

    def _port(self, graph: Graph, spec: TensorSpec, places: Mapping[str, int]) -> TensorSpec:
        """The port as the file has it, once its precision is settled."""
        dtype, scale = graph.numbers(places[spec.name])
        return spec if scale is None else replace(spec, dtype=dtype, quantization=scale)

    # ---- precisions

    def _lowered(self, graph: Graph, images: Sequence[Batch]) -> _Made:
        name = self.request.precision.name
        if name == "fp32":
            return _Made(graph)
        plain = self._scratch("float")
        data = graph.pack()
        _write(plain, data)
        if name == "fp16":
            with self.context.stage("cast to fp16"):
                made = _Made(graph, report={"halved": quantization.halve(graph)})
                found = made.report["halved"]
        else:
            with self.context.stage("quantize"):
                made = self._static(data, images) if images else self._dynamic(data)
                found = quantization.integers_in(made.graph)
        if not found:
            raise ExportError(
                f"no weight of the model is large enough for --precision {name}",
                "leave it in --precision fp32",
            )
        made.comparisons.append(
            Comparison(
                "float file",
                got=plain,
                floor_db=FLOAT_FLOOR_DB,
                inputs=self.loaded.inputs,
                outputs=self.loaded.outputs,
            )
        )
        return made

    def _dynamic(self, data: bytes) -> _Made:
        per_channel = self.request.options["per_channel"]
        return _Made(Graph(quantization.quantize_dynamic(data, per_channel=per_channel)))

    def _static(self, data: bytes, images: Sequence[Batch]) -> _Made:
        """In integers throughout, unless the file comes nearer with the layers alone in them."""
        ranges = quantization.calibrate(data, images, usable_threads())
        some = images[: max(1, TRIED // self._batch())]
        want = self._answers(data, some)
        rated = []
        for operations in (quantization.EVERYTHING, quantization.LAYERS):
            made = self._quantized(data, ranges, operations)
            if made is not None:
                rated.append((distance_db(want, self._answers(made, some)), made, operations))
        if not rated:
            raise ExportError("LiteRT's quantizer cannot quantize the model")
        first_db, last_db = rated[0][0], rated[-1][0]
        snr_db, made, operations = rated[-1] if layers_are_nearer(first_db, last_db) else rated[0]
        notes = []
        if operations != quantization.EVERYTHING:
            notes.append(
                f"only layers are in int8: {last_db:.1f} dB on the calibration images"
                + (f", instead of {first_db:.1f} with everything" if len(rated) > 1 else "")
            )
        graph = Graph(made)
        report = {
            "in_integers": "layers" if notes else "everything",
            "calibration_snr_db": round(snr_db, 2),
        }
        return _Made(graph, report=report, notes=notes)

    def _quantized(
        self, data: bytes, ranges: quantization.Ranges, operations: Sequence[str]
    ) -> bytes | None:
        """None where the quantizer does not manage these operations."""
        options = self.request.options
        pixels = self.loaded.inputs[0].dtype == "uint8"  # a port of its own, and no number
        ports = {"INPUT": "float32" if pixels else options["io"], "OUTPUT": options["io"]}
        try:
            return quantization.quantize_static(
                data, ranges, operations, ports=ports, per_channel=options["per_channel"]
            )
        except (KeyError, NotImplementedError, RuntimeError, ValueError):
            if operations == quantization.LAYERS:
                raise
            return None

    # ---- images

    def _images(self) -> list[Batch]:
        """All of the calibration images, in batches of the size that the file takes.

        :raises RequestError: they cannot be read, do not fit, or are too few.
        """
        size, name = self._batch(), self.loaded.inputs[0].name
        images = list(self.context.calibration(size))
        # A batch that is filled up holds more than there are.
        single = images if size == 1 else self.context.calibration()
        check_samples(sum(len(batch[name]) for batch in single))
        return images

    def _answers(self, data: bytes, images: Sequence[Batch]) -> list[np.ndarray]:
        """What a file gives for some images, output by output, as real numbers."""
        graph = Graph(data)
        port = self._port(graph, self.loaded.inputs[0], graph.inputs)
        outputs = [self._port(graph, spec, graph.outputs) for spec in self.loaded.outputs]
        path = self._scratch("attempt")
        _write(path, data)
        with LiteRTRunner(path) as runner:
            rows = [runner.run({port.name: _stored(b[port.name], port)}) for b in images]
        path.unlink()
        return [np.concatenate([_real(row[o.name], o) for row in rows]) for o in outputs]

    def _batch(self) -> int:
        return least_batch(self.loaded.inputs[0])

    def _scratch(self, name: str) -> Path:
        folder = self.context.staging / name
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.tflite"


def _listed(operators: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in operators.items())


def _stored(array: np.ndarray, port: TensorSpec) -> np.ndarray:
    """Real numbers as a port stores them."""
    if port.quantization is None:
        return array
    scale, zero = port.quantization
    info = np.iinfo(port.dtype)
    return np.clip(np.round(array / np.float32(scale)) + zero, info.min, info.max).astype(
        port.dtype
    )


def _real(array: np.ndarray, port: TensorSpec) -> np.ndarray:
    """A stored output as real numbers."""
    if port.quantization is None:
        return array
    scale, zero = port.quantization
    return (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def _write(path: Path, data: bytes) -> None:
    if len(data) > LARGEST:
        raise ExportError(
            f"the model has {len(data) / 1e9:.1f} GB, and a LiteRT file holds less than 2 GB"
        )
    path.write_bytes(data)
