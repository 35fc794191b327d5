"""A model in fp16 or bf16 whose file still takes and gives float32. Imports torch."""

from __future__ import annotations

import copy
from typing import Any

import torch

from timmx_core.toolkit.pytorch import InputContract

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def cast(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of `module` in `dtype`, with the casts of its inputs and outputs in the graph.

    Normalisation and softmax stay in float32: pixels need their eight bits, and bf16 has no more.
    """
    if not isinstance(module, InputContract):
        return Cast(module, dtype)
    outer = copy.copy(module)
    outer._modules = {**module._modules, "model": Cast(module.model, dtype)}
    return outer


class Cast(torch.nn.Module):
    """`module` in `dtype`, with the casts of its inputs and outputs in the graph."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        # A copy: the same model may be exported by another format, too.
        self.model = copy.deepcopy(module).to(dtype)
        self.dtype = dtype

    def forward(self, image: torch.Tensor) -> Any:
        """As `module`; integer images are left to its own conversion."""
        if image.is_floating_point():
            image = image.to(self.dtype)
        return _to_float(self.model(image))


def _to_float(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.float() if result.is_floating_point() else result
    if isinstance(result, dict):
        return {name: _to_float(value) for name, value in result.items()}
    return tuple(_to_float(value) for value in result)
