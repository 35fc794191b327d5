"""What converters get wrong, put into a model on purpose. Knows no format.

A structural fault is what a converter, a wrapper or a careless script would do to a whole model.
A layer fault spoils one parameter. A manifest fault spoils what a file says of itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from timmx_core.backend import LoadedModel
from timmx_core.files.manifest import digest
from timmx_core.verification.probes import COUNT

Change = Callable[[torch.Tensor], torch.Tensor]
Outputs = torch.Tensor | tuple[torch.Tensor, ...]
LARGE_BATCH = 2 * COUNT


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong between the model and the file."""

    name: str
    inject: Callable[[LoadedModel], torch.nn.Module]  # what is converted in place of the model
    options: Mapping[str, Any] = field(default_factory=dict)  # an export that has it to spoil


class Around(torch.nn.Module):
    """A model with something done to its image, and to some of its outputs."""

    def __init__(
        self,
        model: torch.nn.Module,
        before: Change | None = None,
        after: Change | None = None,
        *,
        only_last: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.before = before
        self.after = after
        self.only_last = only_last

    def forward(self, image: torch.Tensor) -> Outputs:
        """As the model, but wrong."""
        result: Any = self.model(image if self.before is None else self.before(image))
        if self.after is None:
            return result  # type: ignore[no-any-return]
        if isinstance(result, torch.Tensor):
            return self.after(result)
        last = len(result) - 1
        return tuple(
            tensor if self.only_last and index < last else self.after(tensor)
            for index, tensor in enumerate(result)
        )


class Reversed(torch.nn.Module):
    """A model whose outputs come in the opposite order."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As the model, but the last output first."""
        return tuple(reversed(self.model(image)))


class OfOneImage(torch.nn.Module):
    """The outputs for one image, whatever the image. Its cosine with the truth is often high."""

    def __init__(self, model: torch.nn.Module, image: torch.Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            result = model(image)
        self.value = torch.nn.Parameter(result[:1].clone(), requires_grad=False)
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, ...), all rows equal."""
        # Finite outputs times zero: a graph that still takes its input.
        result: torch.Tensor = self.model(image) * 0.0 + self.value
        return result


# ---------------------------------------------------------------- structural faults


def before(name: str, change: Change, **options: Any) -> Fault:
    """The image is changed."""
    return Fault(name, lambda loaded: Around(loaded.module, before=change), options)


def after(name: str, change: Change, *, only_last: bool = False, **options: Any) -> Fault:
    """The outputs are changed."""

    def inject(loaded: LoadedModel) -> torch.nn.Module:
        return Around(loaded.module, after=change, only_last=only_last)

    return Fault(name, inject, options)


def _constant(loaded: LoadedModel) -> torch.nn.Module:
    return OfOneImage(loaded.module, loaded.example_inputs[0])


def _wrong_statistics(loaded: LoadedModel) -> torch.nn.Module:
    """Normalised with the statistics that other models use."""
    other = ((0.5,) * 3, (0.5,) * 3)
    if loaded.mean == other[0]:
        other = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (loaded.mean, loaded.std))
    wrong_mean, wrong_std = (torch.tensor(v).view(1, -1, 1, 1) for v in other)
    return Around(loaded.module, before=lambda x: (x * std + mean).sub(wrong_mean).div(wrong_std))


def _without_block(loaded: LoadedModel) -> torch.nn.Module:
    names = residual_blocks(loaded.module, loaded.example_inputs[0])
    loaded.module.set_submodule(names[len(names) // 2], torch.nn.Identity())
    return loaded.module


def _without_softmax(loaded: LoadedModel) -> torch.nn.Module:
    contract: Any = loaded.module
    contract.softmax = False
    return loaded.module


def _one_nan(output: torch.Tensor) -> torch.Tensor:
    spoiled = torch.zeros(1, *output.shape[1:]).flatten()
    spoiled[spoiled.numel() // 3] = float("nan")
    return output + spoiled.view(1, *output.shape[1:])


def _without_channel(output: torch.Tensor) -> torch.Tensor:
    """(N, C, ...) with channel 1 at zero."""
    return torch.cat([output[:, :1], output[:, 1:2] * 0.0, output[:, 2:]], 1)


def _wrong_beyond_the_probes(output: torch.Tensor) -> torch.Tensor:
    """Of a batch of `LARGE_BATCH`, what comes after as many images as there are probes, x 3."""
    factor = torch.ones(LARGE_BATCH, *[1] * (output.ndim - 1))
    factor[COUNT:] = 3.0
    return output * factor


STRUCTURAL: tuple[Fault, ...] = (
    Fault("output constant", _constant),
    before("output of a mirrored image", lambda x: x.flip(3)),
    before("output of an image on its side", lambda x: x.transpose(2, 3)),
    before("RGB and BGR swapped", lambda x: x.flip(1)),
    Fault("wrong mean and std", _wrong_statistics),
    before("pixels in [0, 255] taken for [0, 1]", lambda x: x * 255.0),
    Fault("one residual block skipped", _without_block),
    after("output x 1.01", lambda y: y * 1.01),
    after("output x 3", lambda y: y * 3.0),
    after("output x -1", lambda y: -y),
    after("classes moved by one", lambda y: torch.cat([y[:, -1:], y[:, :-1]], 1)),
    after("one class too few", lambda y: y[:, :-1]),
    after("another shape, as many elements", lambda y: y.reshape(y.shape[0], 2, -1)),
    after("float64 outputs", lambda y: y.double()),
    after("softmax added", lambda y: y.softmax(-1)),
    after("softmax twice", lambda y: y.softmax(-1), softmax=True),
    Fault("softmax missing", _without_softmax, {"softmax": True}),
    after("batch shuffled", lambda y: y.flip(0), dynamic_batch=True),
    after("first of the batch repeated", lambda y: y[:1].expand_as(y), dynamic_batch=True),
    after("wrong after the eighth of a batch", _wrong_beyond_the_probes, batch_size=LARGE_BATCH),
    after("one class lost", _without_channel),
    after("one channel lost in a feature map", _without_channel, only_last=True, features=True),
    after("one NaN", _one_nan),
    after("one NaN in the last of several outputs", _one_nan, only_last=True, features=True),
    after("last of several outputs x 3", lambda y: y * 3.0, only_last=True, features=True),
    Fault(
        "feature maps in the opposite order",
        lambda loaded: Reversed(loaded.module),
        {"features": True},
    ),
    after("feature maps as NHWC", lambda y: y.permute(0, 2, 3, 1), features=True),
)


def residual_blocks(module: torch.nn.Module, image: torch.Tensor) -> list[str]:
    """Names of submodules that could be left out without a shape noticing: two layers or more."""
    found: list[str] = []
    hooks = []
    layers = (torch.nn.Conv2d, torch.nn.Linear)

    def watch(name: str) -> Callable[..., None]:
        def hook(_: torch.nn.Module, given: Any, got: Any) -> None:
            same = isinstance(got, torch.Tensor) and got.shape == given[0].shape
            if same and name not in found:
                found.append(name)

        return hook

    for parent_name, parent in module.named_modules():
        if not isinstance(parent, (torch.nn.Sequential, torch.nn.ModuleList)):
            continue
        for name, child in parent.named_children():
            if sum(isinstance(part, layers) for part in child.modules()) >= 2:
                hooks.append(child.register_forward_hook(watch(f"{parent_name}.{name}")))
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in hooks:
            handle.remove()
    return found


# ---------------------------------------------------------------- layer faults


def _transposed(values: torch.Tensor) -> torch.Tensor:
    if values.ndim < 2:
        return values.flip(0)  # of a vector: in the opposite order
    return values.permute(*reversed(range(values.ndim))).reshape(values.shape)


def _four_bits(values: torch.Tensor) -> torch.Tensor:
    """Symmetric, one scale per output channel; one scale for a vector."""
    rows = values.reshape(len(values), -1) if values.ndim >= 2 else values.reshape(1, -1)
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-30) / 7
    return (rows / scale).round().mul(scale).reshape(values.shape)


LAYER: Mapping[str, Change] = {
    "transposed": _transposed,
    "zeroed": torch.zeros_like,
    "rounded to fp16": lambda values: values.half().float(),
    "rounded to 4 bits": _four_bits,
}


def layer_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight, bias, scale and embedding that has values to spoil."""
    return {
        name: parameter.data
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and parameter.numel() > 0
    }


@contextmanager
def spoiled(values: torch.Tensor, change: Change) -> Iterator[bool]:
    """A tensor changed in place, and put back; gives whether the change changed anything."""
    kept = values.clone()
    values.copy_(change(kept))
    try:
        yield not torch.equal(values, kept)
    finally:
        values.copy_(kept)


def in_layer(name: str, kind: str) -> Fault:
    """A layer fault as one to be put into a file."""

    def inject(loaded: LoadedModel) -> torch.nn.Module:
        values = layer_weights(loaded.module)[name]
        values.copy_(LAYER[kind](values.clone()))
        return loaded.module

    return Fault(f"{name} {kind}", inject)


def changes(name: str, values: torch.Tensor, kind: str) -> bool:
    """Whether the fault changes this parameter at all."""
    return not torch.equal(LAYER[kind](values), values)


# ---------------------------------------------------------------- manifest faults

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ManifestFault:
    """Something that a file says of itself and that is not so."""

    name: str
    spoil: Callable[[Manifest], None]  # in place
    options: Mapping[str, Any] = field(default_factory=dict)
    found: bool = True  # even where the manifest's digest fits, and there is no record

    def of(self, manifest: Manifest) -> Manifest:
        """A spoiled copy."""
        wrong = copy.deepcopy(manifest)
        self.spoil(wrong)
        assert wrong != manifest
        return wrong

    def signed(self, manifest: Manifest) -> Manifest:
        """A spoiled copy whose digest fits: as if core had made it so."""
        wrong = self.of(manifest)
        return wrong | {"sha256": digest(wrong)}


def _permute_labels(manifest: Manifest) -> None:
    labels = manifest["labels"]
    manifest["labels"] = [*labels[1:], labels[0]]


def _input_size(manifest: Manifest) -> None:
    shape = manifest["inputs"][0]["shape"]
    shape[2], shape[3] = shape[2] * 2, shape[3] * 2


def _input_size_everywhere(manifest: Manifest) -> None:
    _input_size(manifest)
    for part in (manifest["preprocessing"], manifest["probes"]):
        part["height"], part["width"] = part["height"] * 2, part["width"] * 2


def _mean(manifest: Manifest) -> None:
    manifest["inputs"][0]["mean"] = [0.4, 0.4, 0.4]


def _mean_of_preprocessing(manifest: Manifest) -> None:
    manifest["preprocessing"]["mean"] = [0.4, 0.4, 0.4]


def _bgr(manifest: Manifest) -> None:
    manifest["inputs"][0]["color"] = "BGR"


def _crop(manifest: Manifest) -> None:
    manifest["preprocessing"]["crop_pct"] = 0.5


def _output_shape(manifest: Manifest) -> None:
    manifest["outputs"][0]["shape"][1] += 1


MANIFEST: tuple[ManifestFault, ...] = (
    ManifestFault("labels moved by one", _permute_labels, {"labels": "imagenet-1k"}),
    ManifestFault("wrong input size", _input_size),
    ManifestFault("wrong input size, everywhere", _input_size_everywhere),
    ManifestFault("wrong mean", _mean),
    ManifestFault("wrong mean, for people only", _mean_of_preprocessing, found=False),
    ManifestFault("wrong colour order", _bgr),
    ManifestFault("wrong crop", _crop, found=False),
    ManifestFault("wrong output shape", _output_shape),
)
