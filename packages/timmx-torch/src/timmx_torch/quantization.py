"""Programs in int8, by torchao's quantization of exported programs (PT2E). Imports torch.

Layers get int8 weights with a scale for each channel and uint8 activations with ranges from
calibration images, as `X86InductorQuantizer` places them. What it leaves are the operators
`quantize` and `dequantize` of torch's `quantized_decomposed` around layers in float32: eager
PyTorch computes them as they stand there, and torch.compile and AOTInductor make integer kernels
of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from timmx_core.errors import CannotRunHere, ExportError

if TYPE_CHECKING:
    import numpy as np

OPERATORS = "torch.ao.quantization.fx._decomposed"


def quantize(program: torch.export.ExportedProgram, batches: Iterable[np.ndarray]) -> Any:
    """A module that computes in 8 bits, to be captured again.

    :param program: of a model with one input; not changed.
    :param batches: images as the program takes them, of the batch size that it was captured with
        where that is fixed.
    :raises ExportError: there is no layer that can be quantized.
    """
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
        for images in batches:
            prepared(torch.from_numpy(images))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_pt2e(prepared)
    if not any("dequantize" in str(node.target) for node in converted.graph.nodes):
        raise ExportError("the model has no layer for --precision int8", "use --precision bf16")
    _drop_float_weights(converted)
    return converted


def _drop_float_weights(module: torch.fx.GraphModule) -> None:
    """What the integers replaced; it would stay in the file beside them."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    kept = [*module.named_parameters(), *module.named_buffers()]
    for name, _ in kept:
        if name not in used:
            owner, _, own = name.rpartition(".")
            delattr(module.get_submodule(owner), own)


def register_operators() -> None:
    """Make torch know the operators of a quantized program.

    :raises CannotRunHere: this release of torch lacks them.
    """
    try:
        importlib.import_module(OPERATORS)
    except ImportError as error:
        raise CannotRunHere(f"torch {torch.__version__} has no quantized operators") from error
