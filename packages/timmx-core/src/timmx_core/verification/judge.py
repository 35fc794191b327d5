"""Whether a file does what PyTorch does: references, runs, the verdict."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from timmx_core.backend import Artifact, Backend, Comparison, Dimension, TensorSpec
from timmx_core.errors import ArtifactError, RequestError
from timmx_core.models import outputs as given
from timmx_core.models.inputs import pixels_to_input, reference_input
from timmx_core.models.labels import unique_labels
from timmx_core.request.options import run_options
from timmx_core.results import Measurement, Verdict
from timmx_core.verification.measure import Reference, measure, output_text, show_shape
from timmx_core.verification.worker import Outcome, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from timmx_core.models.build import BuiltModel

FILE = "file"


def make_references(
    built: BuiltModel, pixels: np.ndarray, softmax: bool, device: torch.device | str
) -> list[Reference]:
    """What the untouched model gives for the probes, one image at a time.

    What its outputs are follows from that, too, and `built` is told.

    :param pixels: uint8 (probes, H, W, C).
    :raises RequestError: what it gives is not what a file can give, or no classes to take the
        softmax of.
    :raises ModelError: its feature maps are not what timm says of them.
    """
    import torch

    answers: list[list[np.ndarray]] = []
    module = built.module
    # Not inference_mode: some models keep what they compute, and could not be captured with it.
    with torch.no_grad():
        if torch.device(device).type != "cpu":
            # What they keep is to be on the CPU, where they are captured.
            module(reference_input(pixels[:1], built.preprocessing))
            module = copy.deepcopy(module).to(device)
        for index in range(len(pixels)):
            image = reference_input(pixels[index : index + 1], built.preprocessing).to(device)
            result = module(image)
            tensors = given.in_order(given.tensors_of(result), built.order)
            given.check_tensors(tensors)
            answers.append([tensor.cpu().numpy() for tensor in tensors])
    built.several = not isinstance(result, torch.Tensor)
    built.nested = given.is_nested(result)
    values = [_over_images(built, position) for position in zip(*answers, strict=True)]
    built.outputs = given.describe(built, [array[:1].shape for array in values])
    if softmax:
        index = given.require_classes(built, "--softmax")
        values[index] = torch.softmax(torch.from_numpy(values[index]), dim=-1).numpy()
    return [
        Reference(
            name=output.name,
            shape=output.shape,
            values=array.reshape(len(pixels), -1),
            positions=None,
            classes=output.role == "logits",
            layout=output.layout,
        )
        for output, array in zip(built.outputs, values, strict=True)
    ]


def _over_images(built: BuiltModel, answers: Sequence[np.ndarray]) -> np.ndarray:
    """One output of every image, in one array.

    :raises RequestError: its shape depends on the image.
    """
    import numpy as np

    shapes = sorted({answer.shape for answer in answers})
    if len(shapes) > 1:
        raise RequestError(
            f"an output of {built.name} is of shape {shapes[0]} for one image and {shapes[1]} for "
            "another: the shapes of a file are fixed",
            "leave out what selects by value, such as the suppression of boxes",
        )
    return np.concatenate(answers)


def batches_to_run(dimension: Dimension, probes: int) -> tuple[int, ...]:
    """Batch sizes that a file is run at: 1, the one it is made for, and one other."""
    if isinstance(dimension, int):
        return (dimension,)
    least, opt, most = dimension
    other = next(
        (n for n in (3, 2, 5, opt + 1, least + 1) if n >= least and (most is None or n <= most)),
        least,
    )
    wanted = [least, min(opt, max(probes, least)), other]
    return tuple(dict.fromkeys(wanted))


def verify_artifact(
    backend: Backend,
    artifact: Artifact,
    references: Sequence[Reference],
    pixels: np.ndarray,
    floor_db: float,
    *,
    options: Mapping[str, Any],
    backend_of: Callable[[str], Backend],
    scratch: Path,
    timeout: float,
    labels: Sequence[str] | None = None,
    floor_limit: float | None = None,
    worker: Worker | None = None,
) -> Verdict:
    """Run the finished file, and what it asks to be compared beside it, against the references.

    :param labels: the classes' names, for a file that gives a label by itself.
    :param floor_limit: what the user lowers every higher floor to.
    :param worker: one that was started early for the file itself.
    :param scratch: a folder that does not exist yet, for the workers' arrays.
    """
    limit = math.inf if floor_limit is None else floor_limit
    judge = _Judge(
        backend, artifact, references, pixels, options, backend_of, scratch, timeout, labels, limit
    )
    return judge.verdict(min(floor_db, limit), worker)


class _Judge:
    """One verification; keeps what all its comparisons share."""

    def __init__(
        self,
        backend: Backend,
        artifact: Artifact,
        references: Sequence[Reference],
        pixels: np.ndarray,
        options: Mapping[str, Any],
        backend_of: Callable[[str], Backend],
        scratch: Path,
        timeout: float,
        labels: Sequence[str] | None,
        floor_limit: float,
    ) -> None:
        self.backend = backend
        self.artifact = artifact
        self.references = references
        self.pixels = pixels
        self.options = options
        self.backend_of = backend_of
        self.scratch = scratch
        self.timeout = timeout
        self.labels = labels
        self.floor_limit = floor_limit
        self._jobs = 0

    def verdict(self, floor_db: float, worker: Worker | None) -> Verdict:
        artifact = self.artifact
        trouble = misstated_input(artifact.inputs[0], self.pixels)
        if trouble:
            return Verdict("failed", trouble)
        own = self._run(self.backend, artifact.primary, artifact.inputs, self.options, worker)
        rows: list[Measurement] = []
        if own.status == "failed":
            return self._verdict("failed", own.reason, own, rows)
        if own.status == "ok":
            rows += compare(own, artifact.outputs, self.references, floor_db, FILE)
            rows += compare_labels(own, artifact.outputs, self.labels or (), floor_db)
        for comparison in artifact.comparisons:
            rows += self._further(comparison, own, floor_db)
        bad = _first(rows, "failed") or _first(rows, "inconclusive")
        if bad is not None:
            return self._verdict(bad.status, describe(bad), own, rows)
        if own.status != "ok":
            return self._verdict("not verifiable here", own.reason, own, rows)
        if not rows:
            return self._verdict("inconclusive", "there was no output to compare", own, rows)
        return self._verdict("verified", "", own, rows)

    def _verdict(self, status: Any, reason: str, own: Outcome, rows: list[Measurement]) -> Verdict:
        kind: Any = own.kind if own.status == "ok" else ""
        return Verdict(status, reason, own.runner, kind, tuple(rows), len(self.pixels))

    def _run(
        self,
        backend: Backend,
        path: Path,
        inputs: Sequence[TensorSpec],
        options: Mapping[str, Any],
        worker: Worker | None = None,
    ) -> Outcome:
        self._jobs += 1
        arrays = {inputs[0].name: pixels_to_input(self.pixels, inputs[0])}
        batches = batches_to_run(inputs[0].shape[0], len(self.pixels))
        with worker or Worker(backend) as running:
            folder = self.scratch / f"job{self._jobs}"
            return running.run(path, arrays, batches, options, folder, self.timeout)

    def _further(self, comparison: Comparison, own: Outcome, floor_db: float) -> list[Measurement]:
        floor = floor_db if comparison.floor_db is None else comparison.floor_db
        floor = min(floor, self.floor_limit)
        label = comparison.label
        outputs = comparison.outputs or self.artifact.outputs
        inputs = comparison.inputs or self.artifact.inputs
        got = own
        if comparison.got is not None:
            got = self._run_further(self._opener(comparison, 0), comparison.got, inputs)
        if got.status != "ok":
            # A runtime that is missing here neither passes nor fails a file.
            return [] if got.status == "cannot run" else [_no_result(label, floor, got.reason)]
        references = self.references
        if comparison.want is not None:
            want = self._run_further(self._opener(comparison, 1), comparison.want, inputs)
            if want.status != "ok":
                return (
                    [] if want.status == "cannot run" else [_no_result(label, floor, want.reason)]
                )
            references = _as_references(want, self.references)
        return compare(got, outputs, references, floor, label)

    def _run_further(self, backend: Backend, path: Path, inputs: Sequence[TensorSpec]) -> Outcome:
        """With the same options where it is this format, with its defaults where it is another."""
        options = self.options if backend is self.backend else run_options(backend, {})
        return self._run(backend, path, inputs, options)

    def _opener(self, comparison: Comparison, index: int) -> Backend:
        name = comparison.formats[index]
        return self.backend if name is None else self.backend_of(name)


def _no_result(label: str, floor_db: float, reason: str) -> Measurement:
    return Measurement(label, "", 0, None, floor_db, status="failed", reason=reason)


def _as_references(outcome: Outcome, like: Sequence[Reference]) -> list[Reference]:
    """Another file's outputs as what is wanted."""
    assert outcome.outputs is not None
    first = next(iter(outcome.outputs.values()))
    return [
        Reference(
            r.name,
            r.shape,
            first[r.name][: len(r.values)].reshape(len(r.values), -1),
            None,
            r.classes,
            r.layout,
        )
        for r in like
        if r.name in first
    ]


def compare(
    outcome: Outcome,
    specs: Sequence[TensorSpec],
    references: Sequence[Reference],
    floor_db: float,
    label: str,
) -> list[Measurement]:
    """Every output at every batch size that was run."""
    assert outcome.outputs is not None
    by_name = {spec.name: spec for spec in specs}
    rows = []
    for batch, outputs in outcome.outputs.items():
        for reference in references:
            array, spec = outputs.get(reference.name), by_name.get(reference.name)
            trouble = _misstated(array, spec)
            if array is None or spec is None or trouble:
                row = Measurement(
                    label, reference.name, batch, None, floor_db, status="failed", reason=trouble
                )
            else:
                real = _real(array, spec, reference.layout)
                row = measure(reference, real, batch, floor_db, label)
            rows.append(row)
    return rows


def compare_labels(
    outcome: Outcome, specs: Sequence[TensorSpec], labels: Sequence[str], floor_db: float
) -> list[Measurement]:
    """Whether the label that a file gives is the name of its own best class.

    Of two classes with one name, a file may call one by its number, as `unique_labels` does.
    """
    unique = unique_labels(labels)
    assert outcome.outputs is not None
    scores = next((s.name for s in specs if s.role in ("logits", "probabilities")), None)
    rows = []
    for spec in (s for s in specs if s.role == "label"):
        for batch, outputs in outcome.outputs.items():
            got, rated = outputs.get(spec.name), outputs.get(scores or "")
            reason, share = "the file does not give this output", None
            if got is not None and rated is None:
                reason = "the file gives a label without the scores that it follows from"
            elif got is not None and rated is not None:
                best = rated.reshape(len(rated), -1).argmax(1)
                named = [(labels[i], unique[i]) if i < len(labels) else () for i in best]
                share = sum(str(a) in b for a, b in zip(got, named, strict=True)) / len(named)
                reason = "" if share == 1.0 else "the label is not the name of the best class"
            status: Literal["passed", "failed"] = "failed" if reason else "passed"
            rows.append(
                Measurement(
                    FILE, spec.name, batch, None, floor_db, top1=share, status=status, reason=reason
                )
            )
    return rows


def _misstated(array: np.ndarray | None, spec: TensorSpec | None) -> str:
    """Where an output is not what the file says of it; empty where it is."""
    if array is None:
        return "the file does not give this output"
    if spec is None:
        return "the file does not describe this output"
    if str(array.dtype) != spec.dtype:
        return f"dtype {array.dtype} instead of {spec.dtype}"
    stated, got = spec.shape[1:], array.shape[1:]
    if len(stated) != len(got) or any(
        isinstance(want, int) and want != have for want, have in zip(stated, got, strict=True)
    ):
        return f"shape {show_shape(got)} instead of {show_shape(stated)}"
    return ""


def misstated_input(port: TensorSpec, pixels: np.ndarray) -> str:
    """Where an image port does not take the size that the model has; empty where it does.

    A runtime may accept what is run here all the same, and whoever reads the port is misled.

    :param pixels: (probes, H, W, C).
    """
    height, width, chans = pixels.shape[1:]
    wanted = (height, width, chans) if port.layout == "NHWC" else (chans, height, width)
    if not admits(port.shape[1:], wanted):
        return (
            f"the file says that its input is {show_shape(port.shape[1:])}, and the model takes "
            f"{show_shape(wanted)}"
        )
    return ""


def admits(shape: Sequence[Dimension], size: Sequence[int]) -> bool:
    """Whether a port's dimensions allow a size."""
    if len(shape) != len(size):
        return False
    bounds = [(d, d, d) if isinstance(d, int) else d for d in shape]
    return all(
        least <= n and (most is None or n <= most)
        for (least, _, most), n in zip(bounds, size, strict=True)
    )


def _real(array: np.ndarray, spec: TensorSpec, layout: str) -> np.ndarray:
    """A stored output as real numbers, in the layout of PyTorch."""
    import numpy as np

    if spec.quantization is not None:
        scale, zero = spec.quantization
        array = (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    if (spec.layout, layout) == ("NHWC", "NCHW") and array.ndim == 4:
        array = array.transpose(0, 3, 1, 2)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _first(rows: Iterable[Measurement], status: str) -> Measurement | None:
    """The worst of a status."""
    found = [row for row in rows if row.status == status]
    return min(found, key=lambda r: -1e9 if r.snr_db is None else r.snr_db, default=None)


def describe(row: Measurement) -> str:
    """A measurement that did not pass, in one line."""
    place = output_text(row.output) if row.output else "no output"
    if row.comparison != FILE:
        place = f"{row.comparison}, {place}"
    return f"{place} at batch {row.batch}: {row.reason}" if row.batch else f"{place}: {row.reason}"


def check_ports(specs: Sequence[TensorSpec]) -> TensorSpec:
    """The one image port of a file, from its manifest.

    :raises ArtifactError: it has none, or one whose size its layout does not explain.
    """
    images = [spec for spec in specs if spec.role == "image"]
    if len(images) != 1 or images[0].layout not in ("NCHW", "NHWC") or len(images[0].shape) != 4:
        raise ArtifactError("the manifest does not describe one image input")
    return images[0]
