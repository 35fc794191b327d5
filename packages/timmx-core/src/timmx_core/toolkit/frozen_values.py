"""What `torch.jit.trace` froze that depends on the image: branches, and numbers made in Python.

A trace follows one example. torch warns of each tensor that becomes a Python value on the way, and
most of those are shapes and constants, which are the same for every image. Those that are not are
told apart by where the trace has them from. Importing this imports no torch.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import FrameType

T = TypeVar("T")
MOST = 3  # places that a note names

# Methods of a tensor that give Python values.
LEAVING = (
    "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__",
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero",
)  # fmt: skip
# What these operators give depends on a tensor's shape and type, and on no value of it.
OF_THE_SHAPE = frozenset(
    {
        "aten::size", "aten::sym_size", "aten::numel", "aten::dim", "aten::len",
        "aten::_shape_as_tensor", "aten::zeros_like", "aten::ones_like", "aten::full_like",
        "aten::empty_like", "aten::new_zeros", "aten::new_ones", "aten::new_full",
        "aten::new_empty", "prim::dtype", "prim::device", "prim::layout",
    }
)  # fmt: skip


def trace_and_find(trace: Callable[[], T]) -> tuple[T, tuple[str, ...]]:
    """Trace, and say where values of the image were frozen.

    :param trace: calls `torch.jit.trace`; called a second time where torch warned.
    :return: what it gave the first time, and the places, such as `model.py:12 forward`.

    .. versionadded:: 0.1
    """
    import torch

    jit: Any = torch.jit
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", jit.TracerWarning)
        traced = trace()
    if not caught:
        return traced, ()
    places: dict[str, None] = {}
    try:
        with warnings.catch_warnings(), _watch(places):
            warnings.simplefilter("ignore")
            trace()
    except Exception:  # noqa: BLE001 (code that cannot be watched: all that torch warned of)
        places = {f"{Path(warning.filename).name}:{warning.lineno}": None for warning in caught}
    return traced, tuple(places)


def frozen_note(places: tuple[str, ...], remedy: str) -> Iterator[str]:
    """A note for an `Artifact`, where values of the image were frozen.

    :param remedy: what to do about it, as in: use --method script.

    .. versionadded:: 0.1
    """
    if places:
        more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
        yield (
            "the trace follows one image where the model decides by values of its image "
            f"({', '.join(places[:MOST])}{more}), and may be wrong for others; {remedy}"
        )


def _watch(places: dict[str, None]) -> Any:
    """A mode that notes where a value of the image leaves the trace."""
    import torch
    from torch.overrides import TorchFunctionMode

    leaving = {getattr(torch.Tensor, name) for name in LEAVING}
    leaving |= {torch.equal, torch.allclose, torch.is_nonzero}

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in leaving and any(_of_the_image(argument) for argument in args):
                places[_place(sys._getframe(1))] = None
            return func(*args, **(kwargs or {}))

    return Watch()


def _of_the_image(value: Any) -> bool:
    """Whether a tensor of the trace has values that follow from those of its input."""
    import torch

    tracer: Any = torch._C  # which says nothing of its tracer
    if not isinstance(value, torch.Tensor) or not tracer._is_tracing():
        return False
    try:
        waiting = [tracer._get_value_trace(value)]
    except RuntimeError:
        return False  # not of the trace
    seen: set[str] = set()
    while waiting:
        node = waiting.pop().node()
        if node.kind() == "prim::Param":
            return True
        if node.kind() in OF_THE_SHAPE:
            continue
        for origin in node.inputs():
            if origin.debugName() not in seen:
                seen.add(origin.debugName())
                waiting.append(origin)
    return False


def _place(frame: FrameType | None) -> str:
    """The innermost line that is not torch's own."""
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "torch":
        frame = frame.f_back
    if frame is None:
        return "a place unknown"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
