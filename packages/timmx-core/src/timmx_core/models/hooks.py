"""Copies of modules without their owner's hooks.

A hook that looks on would be called with the probes, and with the stand-ins that a capture runs
on. Hooks that the weights come from, and those by which parts of a model hand something to each
other, are parts of the model.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FORWARD = ("_forward_pre_hooks", "_forward_hooks")
KINDS = (
    *FORWARD,
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
LIBRARIES = ("torch", "timm", "torchvision", "torchao")  # weight_norm, pruning, features


def copy_without(module: torch.nn.Module) -> tuple[torch.nn.Module, int]:
    """A deep copy without those hooks that are not parts of the model; the module stays as it is.

    :return: the copy, and how many hooks it lacks that run with `forward`.
    :raises Exception: whatever keeps the module from being copied.
    """
    family = {id(part) for part in module.modules()}
    # `deepcopy` takes what it finds here in place of a copy of its own.
    memo: dict[int, Any] = dict(_computed(module))
    fewer: dict[int, dict[int, Any]] = {}
    running = 0
    for part in module.modules():
        for kind in KINDS:
            hooks: Mapping[int, Any] = getattr(part, kind, None) or {}
            kept = {key: hook for key, hook in hooks.items() if _is_part(hook, family)}
            if len(kept) < len(hooks):
                memo[id(hooks)] = OrderedDict()
                fewer[id(hooks)] = kept
                running += len(hooks) - len(kept) if kind in FORWARD else 0
    copied = copy.deepcopy(module, memo)
    for part, twin in zip(module.modules(), copied.modules(), strict=True):
        for kind in KINDS:
            kept = fewer.get(id(getattr(part, kind, None)), {})
            if kept:
                setattr(twin, kind, OrderedDict(copy.deepcopy(kept, memo)))
    return copied, running


def _computed(module: torch.nn.Module) -> Iterator[tuple[int, torch.Tensor]]:
    """Copies of what a module has computed and keeps, which PyTorch refuses to copy.

    Weights of `weight_norm`, for one, which are computed anew each time.
    """
    import torch

    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                yield id(value), value.detach().clone()


def _is_part(hook: Any, family: set[int]) -> bool:
    """Whether a hook is a library's, or a method of one of the model's own modules."""
    if type(hook).__name__ == "_WrappedHook":  # torch's
        hook = hook.hook
    while isinstance(hook, functools.partial):
        hook = hook.func
    if id(getattr(hook, "__self__", None)) in family:
        return True
    kinds = (hook,) if hasattr(hook, "__qualname__") else type(hook).__mro__
    return any(_package(kind) in LIBRARIES for kind in kinds)


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]
