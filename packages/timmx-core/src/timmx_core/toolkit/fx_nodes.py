"""Where in the model an operator of a captured program comes from, for messages of converters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def module_of(node: torch.fx.Node) -> str:
    """The innermost module that a node comes from: "model.stages.0.attn (Attention)".

    .. versionadded:: 0.1
    """
    stack = node.meta.get("nn_module_stack") or {}
    for path, kind in reversed(stack.values()):
        name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        name = name.rsplit(".", 1)[-1]
        return f"{path} ({name})" if path else f"the model itself ({name})"
    return "the model itself"


def nodes_in(error: BaseException) -> Iterator[torch.fx.Node]:
    """The nodes that were being translated: converters name them in prose, their frames hold them.

    From the outermost frame to the innermost.

    .. versionadded:: 0.1
    """
    import torch

    traceback = error.__traceback__
    while traceback is not None:
        node = traceback.tb_frame.f_locals.get("node")
        if isinstance(node, torch.fx.Node) and node.op == "call_function":
            yield node
        traceback = traceback.tb_next
