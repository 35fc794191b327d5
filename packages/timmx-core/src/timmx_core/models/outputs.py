"""What a model gives: its outputs by name, shape and meaning.

All of it follows from what the untouched model gave for an image. What a module says of itself is
often of the time before its head was replaced, and counts only where the tensors bear it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Dimension, Role, TensorSpec
from timmx_core.errors import ModelError, RequestError

if TYPE_CHECKING:
    import torch

    from timmx_core.models.build import BuiltModel, Task

# Pixels by which a map may miss the size that its stride makes of the image: networks without
# padding (Inception) lose a border at each layer.
BORDER = 4.0
ONLY_TENSORS = "wrap it in a module whose forward() returns the tensors to export, and no more"


@dataclass(frozen=True)
class Output:
    """One tensor that the untouched model gives."""

    name: str
    shape: tuple[int, ...]  # of one image, without N
    role: Role
    layout: str
    stride: int | None = None  # of a feature map whose maker says so


@dataclass(frozen=True)
class FeatureMap:
    """What timm says of one map of `features_only=True`."""

    channels: int
    stride: int


def tensors_of(result: Any) -> list[torch.Tensor]:
    """A model's result as a flat list of tensors: a tensor, a sequence, or a mapping of them.

    :raises RequestError: there is something else among them.
    """
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    if not isinstance(result, (Mapping, list, tuple)):
        what = "None" if result is None else f"a value of type {type(result).__name__}"
        raise RequestError(f"the model gives {what}, and a file gives tensors only", ONLY_TENSORS)
    values = result.values() if isinstance(result, Mapping) else result
    return [tensor for value in values for tensor in tensors_of(value)]


def is_nested(result: Any) -> bool:
    """Whether a model's result is more than a tensor or a sequence of tensors.

    Tracers of other programs take nothing else.
    """
    import torch

    if isinstance(result, torch.Tensor):
        return False
    return isinstance(result, Mapping) or not all(isinstance(v, torch.Tensor) for v in result)


def check_tensors(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse what no verification could compare, for a batch of one image.

    :raises RequestError: an output that is not float32, has no batch dimension, or is empty.
    """
    import torch

    if not tensors:
        raise RequestError("the model gives no tensor", ONLY_TENSORS)
    for index, tensor in enumerate(tensors):
        place = "the model's output" if len(tensors) == 1 else f"output {index} of the model"
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            hint = (
                "return it as float32"
                if tensor.is_floating_point()
                else "return the scores that it is made of, and leave the last step to the caller"
            )
            raise RequestError(f"{place} is {kind}, and only float32 can be verified", hint)
        if tensor.ndim == 0 or tensor.shape[0] != 1:
            raise RequestError(
                f"{place} is of shape {tuple(tensor.shape)} for one image: its first dimension "
                "is not the batch",
                ONLY_TENSORS,
            )
        if tensor.numel() == 0:
            raise RequestError(f"{place} is empty: {tuple(tensor.shape)}", ONLY_TENSORS)


def in_order(tensors: Sequence[torch.Tensor], order: Sequence[int]) -> list[torch.Tensor]:
    """The tensors as they were asked for; an empty order leaves them as they come."""
    return [tensors[index] for index in order] if order else list(tensors)


def feature_maps(module: torch.nn.Module) -> tuple[tuple[FeatureMap, ...], tuple[int, ...]]:
    """What timm says of the maps of a `features_only=True` module.

    timm describes them in the order that they were asked for, and gives them in the network's.

    :return: the maps in the order asked for, and where each of them stands in the module's result;
        both are empty for any other module.
    :raises RequestError: one map was asked for twice.
    """
    info: Any = getattr(module, "feature_info", None)
    if not all(hasattr(info, name) for name in ("reduction", "channels", "out_indices")):
        return (), ()
    count = len(info.info)
    asked = [index % count for index in info.out_indices]
    twice = next((index for index in asked if asked.count(index) > 1), None)
    if twice is not None:
        raise RequestError(f"feature map {twice} was asked for twice", "name each map once")
    maps = tuple(
        FeatureMap(int(channels), int(stride))
        for channels, stride in zip(info.channels(), info.reduction(), strict=True)
    )
    return maps, tuple(sorted(asked).index(index) for index in asked)


def describe(built: BuiltModel, shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
    """Name, layout and meaning of what the model gave.

    :param shapes: of one image's outputs in the order of the file, with N.
    :raises ModelError: timm says something else of its own maps.
    """
    if built.maps:
        as_said = _as_maps(built.maps, shapes, built.preprocessing.input_size[1:])
        if as_said is not None:
            return as_said
        if not built.adopted:
            found = ", ".join(str(list(shape)) for shape in shapes)
            said = ", ".join(f"{m.channels} channels at stride {m.stride}" for m in built.maps)
            raise ModelError(f"{built.name} gives the maps {found}, and timm says: {said}")
    names = ["output"] if len(shapes) == 1 else [f"output_{i}" for i in range(len(shapes))]
    flat = [index for index, shape in enumerate(shapes) if len(shape) == 2]
    outputs: tuple[Output, ...] = ()
    for index, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        role: Role = "features" if len(shape) == 4 else "other"
        if flat == [index]:
            role = "embedding" if built.headless else "logits"
        outputs += (Output(name, tuple(shape[1:]), role, _layout(shape)),)
    return outputs


def _as_maps(
    maps: Sequence[FeatureMap], shapes: Sequence[tuple[int, ...]], size: tuple[int, ...]
) -> tuple[Output, ...] | None:
    """None where the tensors are not the maps that they are said to be."""
    if len(maps) != len(shapes):
        return None
    result: list[Output] = []
    for index, (said, shape) in enumerate(zip(maps, shapes, strict=True)):
        layout = _map_layout(said, shape, size)
        if layout is None:
            return None
        result.append(
            Output(f"features_{index}", tuple(shape[1:]), "features", layout, said.stride)
        )
    # Small maps miss every size by little, but never is one of a larger stride the larger one.
    sizes = [
        math.prod(output.shape[-2:] if output.layout == "NCHW" else output.shape[:-1])
        for output in result
    ]
    contradict = any(
        one.stride < other.stride and size < larger
        for one, size in zip(maps, sizes, strict=True)
        for other, larger in zip(maps, sizes, strict=True)
    )
    return None if contradict else tuple(result)


def _map_layout(said: FeatureMap, shape: tuple[int, ...], size: tuple[int, ...]) -> str | None:
    """NHWC for the models whose feature maps have their channels last (Swin and its kin)."""
    if len(shape) != 4:
        return _layout(shape) if said.channels in shape[1:] else None
    for layout, chans, space in (("NCHW", shape[1], shape[2:]), ("NHWC", shape[3], shape[1:3])):
        near = all(
            abs(whole / said.stride - part) <= BORDER
            for whole, part in zip(size, space, strict=True)
        )
        if chans == said.channels and near:
            return layout
    return None


def _layout(shape: tuple[int, ...]) -> str:
    return {1: "N", 2: "NC", 3: "NLC", 4: "NCHW"}.get(len(shape), "N" + "D" * (len(shape) - 1))


def task_of(outputs: Sequence[Output]) -> Task:
    """What a model with these outputs is for."""
    roles = {output.role for output in outputs}
    if "logits" in roles:
        return "classifier"
    if "embedding" in roles:
        return "embedding"
    return "features" if roles == {"features"} else "other"


def classes_index(outputs: Sequence[Output]) -> int | None:
    """Which output has a number for each class, (N, C); None where there is none."""
    return next((i for i, output in enumerate(outputs) if output.role == "logits"), None)


def require_classes(built: BuiltModel, what: str) -> int:
    """The same for what makes no sense without classes.

    :param what: "--softmax"
    :raises RequestError: says what the model gives instead.
    """
    index = classes_index(built.outputs)
    if index is not None:
        return index
    given = ", ".join(f"{o.name} {list(o.shape)} {o.role}" for o in built.outputs)
    raise RequestError(
        f"{what} is about classes, and {built.name} has no single output of shape (N, classes)",
        f"it gives, for each image: {given}",
    )


def specs(outputs: Sequence[Output], n: Dimension, softmax: bool) -> tuple[TensorSpec, ...]:
    """The outputs as ports of the file.

    :param n: the batch dimension.
    """
    return tuple(
        TensorSpec(
            output.name,
            (n, *output.shape),
            "float32",
            "probabilities" if softmax and output.role == "logits" else output.role,
            output.layout,
        )
        for output in outputs
    )
