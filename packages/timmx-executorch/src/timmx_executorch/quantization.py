"""8 bits, with PT2E and XNNPACK's quantizer. Everything here imports torch.

The captured program is annotated, run on the calibration images, and rewritten so that quantize
and dequantize stand around what XNNPACK computes in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from timmx_core.toolkit.comparison import distance_db, layers_are_nearer

TRIED = 16  # calibration images on which that is found out


@dataclass(frozen=True)
class Quantized:
    """A module with quantize and dequantize in it, and how near it came."""

    module: torch.fx.GraphModule
    snr_db: float | None  # on some calibration images, against the program it was made from
    layers_only: bool = False


def quantize_static(
    program: torch.export.ExportedProgram,
    batches: Sequence[Mapping[str, np.ndarray]],
    *,
    per_channel: bool,
) -> tuple[Quantized, Quantized]:
    """In integers throughout, and with the layers alone in them.

    :param batches: calibration images in batches of the program's own size; at least one.
    """
    some: list[Mapping[str, np.ndarray]] = []
    for batch in batches:
        some.append(batch)
        if sum(len(next(iter(b.values()))) for b in some) >= TRIED:
            break
    want = answers(program.module(), some)
    made = []
    for layers_only in (False, True):
        module = _converted(program, _quantizer(per_channel, False, layers_only), batches)
        snr_db = distance_db(want, answers(module, some))
        made.append(Quantized(module, snr_db, layers_only))
    return made[0], made[1]


def nearer(whole: Quantized, layers: Quantized) -> Quantized:
    """The one in integers throughout, unless the other comes much nearer."""
    assert whole.snr_db is not None
    assert layers.snr_db is not None
    return layers if layers_are_nearer(whole.snr_db, layers.snr_db) else whole


def quantize_dynamic(
    program: torch.export.ExportedProgram,
    example: Mapping[str, np.ndarray],
    *,
    per_channel: bool,
) -> Quantized:
    """Weights in integers now, and what they meet when the program runs."""
    return Quantized(_converted(program, _quantizer(per_channel, True, False), [example]), None)


def holds_integers(module: torch.fx.GraphModule) -> bool:
    """Whether any weight was quantized."""
    return any(tensor.dtype == torch.int8 for tensor in module.state_dict().values())


def answers(module: Any, batches: Iterable[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """What a program gives for batches, output by output."""
    rows = []
    with torch.no_grad():
        for batch in batches:
            outputs = module(*(torch.from_numpy(array) for array in batch.values()))
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
            rows.append([output.numpy() for output in outputs])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _quantizer(per_channel: bool, dynamic: bool, layers_only: bool) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        get_symmetric_quantization_config,
    )

    from timmx_executorch.quantizer import Quantizer

    config = get_symmetric_quantization_config(is_per_channel=per_channel, is_dynamic=dynamic)
    return Quantizer(config, layers_only=layers_only)


def _converted(
    program: torch.export.ExportedProgram,
    quantizer: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
) -> torch.fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(*(torch.from_numpy(array) for array in batch.values()))
    converted: torch.fx.GraphModule = convert_pt2e(prepared)
    return converted
