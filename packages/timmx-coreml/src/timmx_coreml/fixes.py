"""Operators that coremltools 9.0 does not know, or translates wrongly."""

from __future__ import annotations

from typing import Any

_done = False


def register() -> None:
    """Teach the converter; once in a process."""
    global _done  # noqa: PLW0603 - the converter's own registry is global
    if _done:
        return
    from coremltools.converters.mil import Builder as mb  # noqa: N813 - the converter's own word
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import (
        _TORCH_OPS_REGISTRY,
        register_torch_op,
    )

    def alias(context: Any, node: Any) -> None:
        """A view of a tensor under another name."""
        (value,) = _get_inputs(context, node, expected=1)
        context.add(mb.identity(x=value, name=node.name))

    def gelu(context: Any, node: Any) -> None:
        """With `approximate`, which an exported program gives by name: there it was lost."""
        inputs = _get_inputs(context, node)
        named = _get_kwinputs(context, node, "approximate", default=[None])[0]
        given = inputs[1] if len(inputs) > 1 else named
        word = getattr(given, "val", given) or "none"
        mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[word]
        context.add(mb.gelu(x=inputs[0], mode=mode, name=node.name))

    if "alias" not in _TORCH_OPS_REGISTRY:
        register_torch_op(alias)
    register_torch_op(gelu, override=True)
    _done = True
