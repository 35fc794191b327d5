"""Activation functions."""

from __future__ import annotations

import torch
from torch.nn import functional

from timmx_coreml.mil.ops.registry import Arguments, op


@op("relu")
def relu(a: Arguments) -> torch.Tensor:
    return functional.relu(a.tensor("x"))


@op("relu6")
def relu6(a: Arguments) -> torch.Tensor:
    return functional.relu6(a.tensor("x"))


@op("sigmoid")
def sigmoid(a: Arguments) -> torch.Tensor:
    return torch.sigmoid(a.tensor("x"))


@op("silu")
def silu(a: Arguments) -> torch.Tensor:
    return functional.silu(a.tensor("x"))


@op("softplus")
def softplus(a: Arguments) -> torch.Tensor:
    return functional.softplus(a.tensor("x"))


@op("softsign")
def softsign(a: Arguments) -> torch.Tensor:
    return functional.softsign(a.tensor("x"))


@op("softmax")
def softmax(a: Arguments) -> torch.Tensor:
    return torch.softmax(a.tensor("x"), a.integer("axis", -1))


@op("gelu")
def gelu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    known = {"EXACT": "none", "TANH_APPROXIMATION": "tanh", "SIGMOID_APPROXIMATION": "sigmoid"}
    mode = a.choose("mode", a.text("mode", "EXACT"), known)
    return (
        x * torch.sigmoid(1.702 * x) if mode == "sigmoid" else functional.gelu(x, approximate=mode)
    )


@op("elu")
def elu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.where(x > 0, x, a.number("alpha") * torch.expm1(x))


@op("leaky_relu")
def leaky_relu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.where(x >= 0, x, a.number("alpha") * x)


@op("prelu")
def prelu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.where(x > 0, x, _per_channel(a, "alpha", x) * x)


@op("clamped_relu")
def clamped_relu(a: Arguments) -> torch.Tensor:
    x, beta = a.tensor("x"), a.number("beta")
    return torch.where(x >= 0, x, a.number("alpha") * x).clamp(max=beta)


@op("linear_activation")
def linear_activation(a: Arguments) -> torch.Tensor:
    return a.tensor("x") * a.number("alpha") + a.number("beta")


@op("scaled_tanh")
def scaled_tanh(a: Arguments) -> torch.Tensor:
    return a.number("alpha") * torch.tanh(a.number("beta") * a.tensor("x"))


@op("sigmoid_hard")
def sigmoid_hard(a: Arguments) -> torch.Tensor:
    return (a.tensor("x") * a.number("alpha") + a.number("beta")).clamp(0, 1)


@op("softplus_parametric")
def softplus_parametric(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return _per_channel(a, "alpha", x) * functional.softplus(_per_channel(a, "beta", x) * x)


@op("thresholded_relu")
def thresholded_relu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.where(x >= a.number("alpha"), x, torch.zeros_like(x))


def _per_channel(a: Arguments, name: str, x: torch.Tensor) -> torch.Tensor:
    return a.tensor(name).reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
