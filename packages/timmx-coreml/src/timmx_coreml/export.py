"""One export, from a loaded model to a package in staging."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import (
    Artifact,
    Comparison,
    Context,
    ExportRequest,
    LoadedModel,
    TensorSpec,
)
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError, RequestError
from timmx_core.toolkit.batches import least_batch
from timmx_core.toolkit.comparison import run_probes
from timmx_core.toolkit.frozen_values import frozen_note
from timmx_core.toolkit.precision_search import MARGIN_DB, settle
from timmx_coreml import compression, precision, storage
from timmx_coreml.converter import (
    OPEN_BATCH,
    Captured,
    Plan,
    capture,
    convert,
    scratch,
    sized,
)
from timmx_coreml.pixels import PixelInput, image_spec
from timmx_coreml.request import Sizes, deployment_target, parse_sizes
from timmx_coreml.runner import ReferenceRunner

if TYPE_CHECKING:
    import torch

FLOAT_FLOOR_DB = {"fp16": 30.0, "fp32": 80.0}
EXPANDED_FLOOR_DB = 60.0
"""Compressed weights against the same ones written out: both are fp16, and nothing is lost."""
LABEL_OUTPUT = "classLabel"


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Convert, check, compress, write.

    :raises ExportError: names the operator, or the size that the model does not allow.
    """
    return _Export(model, request, context).run()


@dataclass
class _Made:
    """What came out of a conversion."""

    model: Any
    captured: Captured
    kept: frozenset[str] = frozenset()
    comparisons: list[Comparison] = field(default_factory=list)


class _Export:
    def __init__(self, model: LoadedModel, request: ExportRequest, context: Context) -> None:
        self.loaded = model
        self.request = request
        self.context = context
        self.notes: list[str] = []
        options = request.options
        self.neural = options["convert_to"] == "neuralnetwork"
        self.sizes: Sizes = parse_sizes(options["sizes"], options["size_range"])
        self.image = bool(options["image_input"])
        self.input = model.inputs[0]
        if self.image and self.input.shape[1] not in (1, 3):
            raise RequestError(
                f"a Core ML image has 1 or 3 channels, and the model takes {self.input.shape[1]}",
                "leave out --image-input",
            )
        if model.labels and len(model.outputs) > 1:
            raise RequestError(
                f"a Core ML classifier has one output, and the model gives {len(model.outputs)}",
                "leave out --labels, or export a module that gives the logits alone",
            )
        self.module: torch.nn.Module = (
            PixelInput(model.module, self.input).eval() if self.image else model.module
        )
        self.plan = Plan(
            kind=options["convert_to"],
            target=None if self.neural else deployment_target(request),
            input=self.input,
            outputs=model.outputs,
            image=self.image,
            labels=model.labels,
            sizes=self.sizes,
        )

    def run(self) -> Artifact:
        made = self._converted()
        name = self.request.precision.name
        if name in compression.COMPRESSED:
            made = self._compressed(made, name)
        self._finish_spec(made.model)
        storage.write(made.model, self.context.primary)
        self._check_sizes()
        report = self._report(made)
        return Artifact(
            primary=self.context.primary,
            inputs=(self._port(),),
            outputs=self._outputs(),
            comparisons=tuple(made.comparisons),
            report=report,
            notes=tuple(self.notes),
        )

    # ---- conversion

    def _converted(self) -> _Made:
        """Convert; where one way of capturing fails, try the other."""
        first = self.request.options["source"]
        ways = [first] if self.sizes else [first, "trace" if first == "export" else "export"]
        failures: list[ExportError] = []
        for how in ways:
            try:
                made = self._converted_by(how)
            except ExportError as error:
                failures.append(error)
                continue
            if failures:
                made.captured.failure = failures[0].message
                self.notes.append(f"captured by {made.captured.how}: {failures[0].message}")
            self.notes += frozen_note(made.captured.frozen, "write it with torch.where")
            return made
        raise failures[0]

    def _converted_by(self, how: str) -> _Made:
        with self.context.stage(f"capture ({how})"):
            captured = capture(self.loaded, self.module, how, bool(self.sizes))
        with self.context.stage("convert to Core ML"):
            if self.neural:
                return _Made(convert(captured, self.plan, None, self.context), captured)
            if self.request.precision.name == "fp32":
                compute = precision.compute_precision("fp32", frozenset())
                return _Made(convert(captured, self.plan, compute, self.context), captured)
            return self._converted_to_fp16(captured)

    def _converted_to_fp16(self, captured: Captured) -> _Made:
        """fp16, with whatever must stay in fp32 kept there."""

        def attempt(kept: frozenset[str]) -> Any:
            compute = precision.compute_precision("fp16", kept)
            return convert(captured, self.plan, compute, self.context)

        best = settle(precision.CIRCLES, attempt, self._rate, FLOAT_FLOOR_DB["fp16"])
        made = _Made(best.model, captured, best.kept)
        if best.kept:
            present = sorted(best.kept & set(_kinds(best.model)))
            made.kept = frozenset(present)
            self.notes.append(f"kept in fp32, where fp16 was not enough: {', '.join(present)}")
        return made

    def _rate(self, model: Any) -> float:
        """How near a converted model comes to PyTorch, over the images of the verification."""
        path = self._scratch("attempt")
        self._finish_spec(model)
        storage.write(model, path)
        port = self._port()
        inputs = {port.name: self.context.probes(port)}
        try:
            with ReferenceRunner(path) as runner:
                outputs = run_probes(runner, inputs, least_batch(port))
        except CannotRunHere:
            return MARGIN_DB + 200.0  # nothing to be said; the verdict will say so
        finally:
            shutil.rmtree(path)
        names = {o.name for o in self.loaded.outputs}
        return self.context.snr_db({n: a for n, a in outputs.items() if n in names})

    def _scratch(self, name: str) -> Path:
        return self.context.staging / f"{name}.mlpackage"

    # ---- compression

    def _compressed(self, made: _Made, name: str) -> _Made:
        """Compress, and leave beside it what it must be compared with."""
        self._finish_spec(made.model)
        plain = self._scratch("float")
        storage.write(made.model, plain)
        with self.context.stage(f"compress to {name}"), scratch(self.context.staging):
            small = compression.compress(made.model, name)
            expanded = compression.expand(small)
        self._finish_spec(expanded)
        written_out = self._scratch("expanded")
        storage.write(expanded, written_out)
        made.model = small
        made.comparisons += [
            Comparison("float file", got=plain, floor_db=FLOAT_FLOOR_DB["fp16"]),
            Comparison("weights written out", want=written_out, floor_db=EXPANDED_FLOOR_DB),
        ]
        kinds = _kinds(small)
        count = compression.compressed_operations(kinds)
        if not count:
            raise ExportError(
                f"no weight of the model is large enough for --precision {name}",
                "leave it in --precision fp16",
            )
        return made

    # ---- the file

    def _finish_spec(self, model: Any) -> None:
        """Names, descriptions and metadata; the same again where they are there already."""
        spec = model._spec
        description = spec.description
        request = self.request
        name = request.model if isinstance(request.model, str) else type(request.model).__name__
        metadata = description.metadata
        metadata.shortDescription = f"{name}, exported by timmx"
        metadata.author = metadata.author or "timmx"
        metadata.license = _licence(self.loaded)
        if self.plan.labels:
            _name_probabilities(spec, self.loaded.outputs[0].name)
            metadata.userDefined["com.apple.coreml.model.preview.type"] = "imageClassifier"
        for port in description.input:
            port.shortDescription = _say_input(self._port())
        for port, output in zip(description.output, self._outputs_in_file(), strict=False):
            port.shortDescription = _ROLES.get(output, "")

    def _outputs_in_file(self) -> list[str]:
        roles = [str(o.role) for o in self.loaded.outputs]
        return ["label", *roles] if self.plan.labels else roles

    def _port(self) -> TensorSpec:
        spec = self.input
        batch = spec.shape[0]
        if not isinstance(batch, int) and batch[2] is None:
            spec = replace(
                spec, shape=((batch[0], batch[1], max(OPEN_BATCH, batch[1])), *spec.shape[1:])
            )
        if self.image:
            spec = image_spec(spec)
        return sized(spec, self.sizes)

    def _outputs(self) -> tuple[TensorSpec, ...]:
        outputs = self.loaded.outputs
        batch = self._port().shape[0]
        outputs = tuple(replace(o, shape=(batch, *o.shape[1:])) for o in outputs)
        if not self.plan.labels:
            return outputs
        return (*outputs, TensorSpec(LABEL_OUTPUT, (1,), "str", "label", "N"))

    def _check_sizes(self) -> None:
        """Run the file at the other sizes that it claims to take.

        :raises ExportError: it gives something else there than PyTorch.
        """
        if not self.sizes or self.neural:
            return
        pairs = self.sizes.range or self.sizes.listed
        with self.context.stage("check the other sizes"):
            for height, width in pairs:
                self._check_size(height, width)

    def _check_size(self, height: int, width: int) -> None:
        own = _at(self.input, height, width)
        images = precision.sample(own)
        fixed = "the model fixes its size: leave out --sizes and --size-range"
        try:
            want = precision.reference(self.loaded.module, images)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ExportError(
                f"the model does not take images of {height}x{width}: "
                f"{str(error).strip().splitlines()[0]}",
                fixed,
            ) from error
        if self.image:
            images = precision.sample(image_spec(own))
        names = [o.name for o in self.loaded.outputs]
        try:
            snr = precision.snr_of_file(self.context.primary, self.input.name, images, want, names)
        except ArtifactError as error:
            raise ExportError(
                f"the file does not take images of {height}x{width}: {error.message}", fixed
            ) from error
        if snr < self.request.precision.floor_db:
            raise ExportError(
                f"at {height}x{width} the file does not do what PyTorch does ({snr:.1f} dB)",
                fixed,
            )

    def _report(self, made: _Made) -> dict[str, Any]:
        report: dict[str, Any] = {
            "kind": self.plan.kind,
            "source": made.captured.how,
            "minimum_deployment_target": self.plan.target or "iOS13",
            "specification_version": made.model._spec.specificationVersion,
            "kept_in_fp32": sorted(made.kept),
        }
        if made.captured.failure:
            report["source_failure"] = made.captured.failure
        if not self.neural:
            kinds = _kinds(made.model)
            report["operations"] = sum(kinds.values())
            report["operators"] = dict(sorted(kinds.items()))
            report["compressed_weights"] = compression.compressed_operations(kinds)
        if self.sizes:
            report["sizes"] = [f"{h}x{w}" for h, w in self.sizes.range or self.sizes.listed]
        return report


_ROLES = {
    "logits": "Logits, one for each class",
    "probabilities": "Probability of each class",
    "embedding": "Embedding",
    "features": "Feature map",
    "label": "Most probable class",
    "other": "Output",
}


def _kinds(model: Any) -> dict[str, int]:
    """How many operations of each kind the program has, constants left out."""
    counts: dict[str, int] = {}
    for function in model._spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                if operation.type != "const":
                    counts[operation.type] = counts.get(operation.type, 0) + 1
    return counts


def _name_probabilities(spec: Any, name: str) -> None:
    """Give a classifier's dictionary the name that the output has in every other file."""
    from coremltools.models.utils import rename_feature

    current = spec.description.predictedProbabilitiesName
    if current != name:
        rename_feature(spec, current, name, rename_inputs=False)


def _say_input(spec: TensorSpec) -> str:
    if spec.dtype == "uint8":
        return f"{'Grayscale' if spec.color == 'GRAY' else 'RGB'} image"
    low, high = spec.range or (0.0, 1.0)
    words = f"Image as {spec.layout}, {spec.color or 'channels'} in [{low:g}, {high:g}]"
    if not spec.mean:
        return words
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    return f"{words}, less mean ({mean}), divided by std ({std})"


def _licence(model: LoadedModel) -> str:
    """What timm knows of the weights' licence; empty where it knows nothing."""
    inner: Any = model.module
    for _ in range(4):
        config: Mapping[str, Any] = getattr(inner, "pretrained_cfg", None) or {}
        if config:
            return str(config.get("license") or "")
        inner = getattr(inner, "model", None)
    return ""


def _at(spec: TensorSpec, height: int, width: int) -> TensorSpec:
    """A port of one image of this size."""
    if spec.layout == "NHWC":
        return replace(spec, shape=(1, height, width, spec.shape[3]))
    return replace(spec, shape=(1, spec.shape[1], height, width))
