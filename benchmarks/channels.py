"""See whether honest files of low precision pass the floor of each channel, and keep it as JSON.

    python benchmarks/channels.py                   # the smallest of each family, up to 14 million
    python benchmarks/channels.py resnet18 dla46x_c

PyTorch itself computes in float16, in bfloat16 and with layers in 8 bits (weights per channel,
activations as they come); features, logits and probabilities are rated as a file's would be. What
fails by a channel where the whole output passes is a false refusal. Finished models are kept.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
from family_rows import families, images_for, rate_missing  # type: ignore[import-not-found]

from timmx_core.random_weights.informative import make_informative
from timmx_core.verification.measure import Reference, measure

MOST_PARAMETERS = 14_000_000
TYPES = {"fp16": (torch.float16, 30.0), "bf16": (torch.bfloat16, 12.0)}
INT8_FLOOR = 5.0


def answers(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features, logits and probabilities."""
    features = model.forward_features(images)
    logits = model.forward_head(features)
    found = {"logits": logits, "probabilities": logits.float().softmax(-1)}
    return found | ({"features": features} if isinstance(features, torch.Tensor) else {})


def in_eight_bits(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose layers have weights and inputs in 8 bits."""
    quantized = copy.deepcopy(model)
    for layer in quantized.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            weight = layer.weight.data
            scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / 127
            layer.weight.data = (weight / scale.clamp_min(1e-12)).round() * scale
            layer.register_forward_pre_hook(lambda _, given: (_rounded(given[0]),))
    return quantized


def _rounded(values: torch.Tensor) -> torch.Tensor:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return ((values - low) / scale).round() * scale + low


def lowered(model: torch.nn.Module) -> Iterator[tuple[str, float, torch.nn.Module, torch.dtype]]:
    """The model in each low precision, with its floor and the type of its input."""
    for name, (dtype, floor) in TYPES.items():
        yield name, floor, copy.deepcopy(model).to(dtype), dtype
    yield "int8", INT8_FLOOR, in_eight_bits(model), torch.float32


def rate(name: str) -> dict[str, Any]:
    """Every output at every precision."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = images_for(model)
    make_informative(model, images, 0)
    rows: dict[str, Any] = {}
    with torch.no_grad():
        want = answers(model, images)
        for precision, floor, module, dtype in lowered(model):
            try:
                got = answers(module, images.to(dtype))
            except (RuntimeError, NotImplementedError) as error:
                rows[precision] = {"error": str(error).splitlines()[0][:100]}
                continue
            rows[precision] = {
                output: _rated(output, want[output], got[output], floor) for output in want
            }
    return rows


def _rated(name: str, want: torch.Tensor, got: torch.Tensor, floor: float) -> dict[str, Any]:
    values = want.float().numpy()
    reference = Reference(name, values.shape[1:], values.reshape(len(values), -1), None)
    row = measure(reference, got.float().numpy(), 1, floor, "file")
    return {
        "snr_db": row.snr_db,
        "channel_db": row.channel_db,
        "channel_floor_db": row.channel_floor_db,
        "status": row.status,
        "refused_by_a_channel": row.status == "failed" and (row.snr_db or 0.0) >= floor,
    }


def _told(row: dict[str, Any]) -> str:
    outputs = [
        output
        for precision in row.values()
        if isinstance(precision, dict)
        for output in precision.values()
        if isinstance(output, dict)
    ]
    refused = sum(output["refused_by_a_channel"] for output in outputs)
    return f"{len(outputs)} outputs, {refused} refused by a channel"


def main() -> None:
    """Rate what is missing."""
    # The last two are those of a model that has no such pair of methods.
    errors = (RuntimeError, TypeError, AttributeError)
    about = __doc__.splitlines()[0]
    rate_missing("channels", about, families(MOST_PARAMETERS), rate, errors, _told)


if __name__ == "__main__":
    main()
