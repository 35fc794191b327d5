"""The subject of one export: the untouched model, the probes, and what it gives for them.

References are taken before the model is folded or wrapped, so that a fault in those steps cannot
verify itself; after that the same module is folded in place, and no second copy is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Backend, Batch, ExportRequest, LoadedModel
from timmx_core.errors import ExportError, ModelError, RequestError, TimmxError, first_line
from timmx_core.models import build as models
from timmx_core.models import inputs
from timmx_core.models.outputs import classes_index, specs, task_of
from timmx_core.models.preprocessing import Preprocessing, settled
from timmx_core.models.weights import sources as weights
from timmx_core.random_weights.informative import make_informative
from timmx_core.toolkit.capture import Capturer, example_batch
from timmx_core.verification import probes
from timmx_core.verification.judge import make_references
from timmx_core.verification.measure import Reference

if TYPE_CHECKING:
    import numpy as np
    import torch

# What timm's modules fold themselves with; the first that one has is called.
FOLDING = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass
class Subject:
    """`pixels` are the built-in probes, then the user's own images; references cover both."""

    built: models.BuiltModel
    recipe: probes.Recipe
    pixels: np.ndarray  # uint8 (probes, H, W, C)
    references: list[Reference]
    digest: str  # of the built-in probes
    folded: bool = False

    @property
    def own(self) -> list[Reference]:
        """The references of the built-in probes alone, which the manifest keeps."""
        count = self.recipe.count
        return [
            Reference(r.name, r.shape, r.values[:count], r.positions, r.classes, r.layout)
            for r in self.references
        ]


@contextlib.contextmanager
def blamed_on(model: str | torch.nn.Module) -> Iterator[None]:
    """Whatever a model's own code raises, as one kind of error.

    :raises ModelError: its cause is what the code raised, with the traceback.
    """
    try:
        yield
    except TimmxError:
        raise
    except (Exception, SystemExit) as error:
        name = model if isinstance(model, str) else type(model).__name__
        raise ModelError(
            f"{name} cannot be built and run: {type(error).__name__}: {first_line(error)}"
        ) from error


def make_subject(request: ExportRequest, build_options: Mapping[str, Any]) -> Subject:
    """Build the model, make the probes, take the references.

    :raises ModelError: the model or its weights cannot be had, or its own code fails.
    :raises RequestError: it does not take what was asked.
    """
    with blamed_on(request.model):
        return _make_subject(request, build_options)


def _make_subject(request: ExportRequest, build_options: Mapping[str, Any]) -> Subject:
    shared = request.shared
    built = models.build(request.model, shared, build_options)
    chans, height, width = built.preprocessing.input_size
    recipe = probes.Recipe(height, width, chans)
    if recipe.values > probes.MOST_VALUES:
        raise RequestError(
            f"images of {chans}x{height}x{width} are more than timmx can verify",
            "choose a smaller --input-size",
        )
    _check_batch(request.batch, built.preprocessing.input_size)
    pixels = probes.make(recipe)
    digest = probes.digest(pixels)
    device = _device(shared["device"])
    # All but the references is made on the CPU, so that the file depends on no device.
    built.module.to("cpu")
    if built.weights["origin"] == "random":
        images = inputs.reference_input(pixels, built.preprocessing)
        make_informative(built.module, images, shared["seed"])
    if "sha256" not in built.weights:
        built.weights["sha256"] = weights.digest(built.module)
    if shared["probe_data"]:
        pixels = _with_images(pixels, Path(shared["probe_data"]), built)
    references = _references(built, pixels, shared["softmax"], device)
    _settle_task(built)
    return Subject(built, recipe, pixels, references, digest)


def _check_batch(batch: Batch, size: tuple[int, int, int]) -> None:
    """Whether the batches that the file is captured and run with can be held.

    :raises RequestError: they are larger than the images of a verification may be.
    """
    least, best, _ = batch
    run = max(least, best)
    most = probes.most_batch(*size)
    if run > most:
        raise RequestError(
            f"a batch of {run:,} images of {'x'.join(map(str, size))} is more than timmx can run: "
            f"at most {most:,}, which are {probes.MOST_VALUES * 4 >> 30} GiB",
            "choose a smaller batch; --dynamic-batch takes any, whatever it is tuned for",
        )


def load(
    subject: Subject,
    request: ExportRequest,
    backend: Backend,
    labels: tuple[str, ...] | None,
) -> LoadedModel:
    """The model folded, and wrapped in the input contract less what the format absorbs.

    :raises ModelError: its own code fails.
    """
    with blamed_on(request.model):
        return _load(subject, request, backend, labels)


def _load(
    subject: Subject,
    request: ExportRequest,
    backend: Backend,
    labels: tuple[str, ...] | None,
) -> LoadedModel:
    import torch

    built = subject.built
    if not subject.folded:
        _fold(built.module)
        subject.folded = True
    asked = inputs.asked_transforms(request.shared)
    absorb = asked & backend.absorbs & backend.absorbed(request)
    inside = asked - absorb
    # uint8 and normalize belong together: pixels are scaled where they are normalised.
    spec = inputs.input_spec(built.preprocessing, request.batch, inside)
    module = inputs.wrap(built, inside)
    whole = inputs.input_spec(built.preprocessing, request.batch, asked)
    n = example_batch(request.batch)
    shape = [n if index == 0 else d for index, d in enumerate(spec.shape)]
    images = subject.pixels[[i % len(subject.pixels) for i in range(n)]]
    example = torch.from_numpy(inputs.pixels_to_input(images, spec)).reshape(shape)  # type: ignore[arg-type]
    batch = inputs.batch_dimension(request.batch)
    return LoadedModel(
        module=module,
        example_inputs=(example,),
        inputs=(spec,),
        outputs=specs(built.outputs, batch, "softmax" in inside),
        labels=labels,
        capture=Capturer(module, (example,), request.batch),
        absorb=absorb,
        file_inputs=(whole,),
        file_outputs=specs(built.outputs, batch, "softmax" in asked),
        mean=built.preprocessing.mean,
        std=built.preprocessing.std,
    )


def _references(
    built: models.BuiltModel, pixels: np.ndarray, softmax: bool, device: torch.device
) -> list[Reference]:
    size = "x".join(map(str, built.preprocessing.input_size))
    try:
        return make_references(built, pixels, softmax, device)
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        if "out of memory" in str(error):
            raise ExportError(
                f"PyTorch ran out of memory running {built.name} at {size}"
            ) from error
        raise RequestError(
            f"{built.name} cannot run on {size}: {first_line(error)}",
            "input_size=(C, H, W) is the size that its forward() takes"
            if built.adopted
            else f"see its own size with: timmx info {built.name}",
        ) from error


def _settle_task(built: models.BuiltModel) -> None:
    """Task and number of classes are what the outputs bear out, whatever the module says."""
    built.task = task_of(built.outputs)
    index = classes_index(built.outputs)
    built.num_classes = None if index is None else built.outputs[index].shape[0]


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"PyTorch cannot use the device {name!r} here: {first_line(error)}",
            "see: timmx doctor",
        ) from error
    return device


def _with_images(pixels: np.ndarray, folder: Path, built: models.BuiltModel) -> np.ndarray:
    import numpy as np

    chans, height, width = built.preprocessing.input_size
    crop = eval_crop(built.preprocessing)
    return np.concatenate([pixels, probes.read_images(folder, height, width, chans, crop=crop)])


def eval_crop(preprocessing: Preprocessing) -> Any:
    """timm's evaluation transform without its last steps: a PIL image of the model's size."""
    from timm.data.transforms_factory import create_transform

    interpolation, crop_pct, crop_mode = settled(
        preprocessing.interpolation, preprocessing.crop_pct, preprocessing.crop_mode
    )
    transform = create_transform(
        input_size=preprocessing.input_size,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    from torchvision.transforms import Compose  # type: ignore[import-untyped]

    keep = [
        t
        for t in transform.transforms
        if "Tensor" not in type(t).__name__ and type(t).__name__ != "Normalize"
    ]
    return Compose(keep)


def _fold(module: torch.nn.Module) -> None:
    """Reparameterise in place: branches of training become one convolution.

    In eval mode, since folding a module in train mode is another computation.
    """
    import torch

    with torch.no_grad():
        _fold_children(module)


def _fold_children(module: torch.nn.Module) -> None:
    """As `timm.utils.reparameterize_model` does it, but for timm's own methods alone.

    A user's child may have a method of such a name, which does something else.
    """
    for name, child in list(module.named_children()):
        method = next((m for m in FOLDING if _is_timms(child, m)), None)
        if method == "fuse":
            child = child.fuse()  # type: ignore[operator]
            setattr(module, name, child)
        elif method is not None:
            getattr(child, method)()
        _fold_children(child)


def _is_timms(module: torch.nn.Module, method: str) -> bool:
    function = getattr(type(module), method, None)
    return str(getattr(function, "__module__", "")).startswith("timm.")
