"""A user's own `nn.Module` becomes a `BuiltModel`: a copy, since later steps fold and wrap it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ModelError, RequestError, first_line
from timmx_core.models import preprocessing
from timmx_core.models.build import BuiltModel, describe_outputs
from timmx_core.models.hooks import copy_without
from timmx_core.models.weights import sources as weights

if TYPE_CHECKING:
    import torch

ABOUT_NAMES = ("pretrained", "checkpoint", "num_classes", "model_kwarg", "features", "embedding")


def adopt(module: torch.nn.Module, shared: Mapping[str, Any]) -> BuiltModel:
    """Take a module as it is, in float32.

    :raises RequestError: an option that is about timm's names, or no size to be had.
    :raises ModelError: it holds no numbers yet, cannot be copied, or says nonsense of its input.
    """
    for name in ABOUT_NAMES:
        if shared[name]:
            raise RequestError(
                f"{name} is about building a timm model, and a module was given",
                "build the module with it",
            )
    name = type(module).__name__
    _check_numbers(module, name)
    copied, hooks = _copy(module, name)
    copied.eval()
    digest = weights.digest(copied)
    notes = _widen(copied) + _still_training(copied)
    if hooks:
        notes.append(f"{hooks} hooks of the module are not in the file: they are not parts of it")
    prepared, more = preprocessing.resolve(copied, shared, named=False)
    config = preprocessing.configuration(copied)
    built = BuiltModel(
        module=copied,
        name=name,
        architecture=str(config.get("architecture") or name),
        task="classifier",
        preprocessing=prepared,
        weights={"origin": "module", "sha256": digest},
        parameters=sum(p.numel() for p in copied.parameters()),
        notes=notes + more,
        adopted=True,
    )
    describe_outputs(built)
    return built


def _check_numbers(module: torch.nn.Module, name: str) -> None:
    """Refuse a module that does not have its weights yet.

    :raises ModelError: names the first that is missing.
    """
    from torch.nn.parameter import is_lazy

    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"{key} of {name} has no shape yet", "run an image through the module once"
            )
        if tensor.is_meta:
            raise ModelError(
                f"{key} of {name} is on the meta device and holds no numbers",
                "load its weights first",
            )


def _copy(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, int]:
    try:
        return copy_without(module)
    except Exception as error:
        raise ModelError(
            f"{name} cannot be copied, and timmx leaves the module as it is: "
            f"{type(error).__name__}: {first_line(error)}",
            "give a module that copy.deepcopy can copy: without open files, locks, or tensors "
            "that were computed with gradients",
        ) from error


def _still_training(copied: torch.nn.Module) -> list[str]:
    """A note, where the module's own `eval` or `train` keeps dropout and the like at work."""
    names = [name or type(copied).__name__ for name, m in copied.named_modules() if m.training]
    if not names:
        return []
    who = f"{names[0]} stays" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more stay"
    return [f"{who} in training mode after eval(), and may give random answers"]


def _widen(copied: torch.nn.Module) -> list[str]:
    """To float32, in which images come and in which every precision begins.

    :return: a note, where it was something else.
    """
    import torch

    tensors = (*copied.parameters(), *copied.buffers())
    kinds = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not kinds:
        return []
    copied.float()
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return [f"the module's weights are {names}: the file is made of a copy in float32"]
