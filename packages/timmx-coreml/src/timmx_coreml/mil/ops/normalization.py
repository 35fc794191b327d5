"""Normalizations."""

from __future__ import annotations

import torch
from torch.nn import functional

from timmx_coreml.mil.ops.registry import Arguments, axis_of, op


@op("batch_norm")
def batch_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return functional.batch_norm(
        x,
        a.tensor("mean"),
        a.tensor("variance"),
        a.maybe("gamma"),
        a.maybe("beta"),
        eps=a.number("epsilon", 1e-5),
    )


@op("instance_norm")
def instance_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = list(range(2, x.ndim))
    result = _normalized(x, axes, a.number("epsilon", 1e-5))
    shape = [1, -1] + [1] * (x.ndim - 2)
    return _scaled(a, result, shape)


@op("layer_norm")
def layer_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = sorted(axis_of(axis, x.ndim) for axis in a.integers("axes", range(x.ndim)))
    result = _normalized(x, axes, a.number("epsilon", 1e-5))
    # gamma and beta have the sizes of the normalized axes, in their order.
    shape = [x.shape[i] if i in axes else 1 for i in range(x.ndim)]
    return _scaled(a, result, shape)


@op("l2_norm")
def l2_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = list(range(max(x.ndim - 3, 0), x.ndim))
    squares = x.square().sum(axes, keepdim=True)
    return x / torch.sqrt(squares + a.number("epsilon", 1e-6))


@op("local_response_norm")
def local_response_norm(a: Arguments) -> torch.Tensor:
    return functional.local_response_norm(
        a.tensor("x"),
        a.integer("size"),
        alpha=a.number("alpha", 1e-4),
        beta=a.number("beta", 0.75),
        k=a.number("k", 1.0),
    )


def _normalized(x: torch.Tensor, axes: list[int], epsilon: float) -> torch.Tensor:
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = centred.square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon)


def _scaled(a: Arguments, x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    gamma, beta = a.maybe("gamma"), a.maybe("beta")
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)
