"""Scaled dot-product attention."""

from __future__ import annotations

import math

import torch

from timmx_coreml.mil.ops.registry import Arguments, op


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(a: Arguments) -> torch.Tensor:
    query, key, value = a.tensor("query"), a.tensor("key"), a.tensor("value")
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    mask = a.maybe("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return torch.softmax(scores, -1) @ value
