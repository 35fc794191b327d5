"""LSTM, GRU and plain recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from timmx_coreml.mil.ops.registry import Arguments, op

_Activation = Callable[[torch.Tensor], torch.Tensor]
_ACTIVATIONS: dict[str, _Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


def _activation(a: Arguments, name: str, default: str) -> _Activation:
    chosen: _Activation = a.choose(name, a.text(name, default), _ACTIVATIONS)
    return chosen


def _in_order(x: torch.Tensor, backwards: bool) -> list[torch.Tensor]:
    steps = list(x.unbind(0))
    return steps[::-1] if backwards else steps


@op("lstm")
def lstm(a: Arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    direction = a.text("direction", "forward")
    h, c = a.tensor("initial_h"), a.tensor("initial_c")
    if direction != "bidirectional":
        steps, h, c = _lstm(a, "", h, c, backwards=direction == "reverse")
        return (steps if a.flag("output_sequence") else h.unsqueeze(0)), h, c
    h_forward, h_back = h.chunk(2, -1)
    c_forward, c_back = c.chunk(2, -1)
    forward, h_forward, c_forward = _lstm(a, "", h_forward, c_forward, backwards=False)
    back, h_back, c_back = _lstm(a, "_back", h_back, c_back, backwards=True)
    h, c = torch.cat([h_forward, h_back], -1), torch.cat([c_forward, c_back], -1)
    steps = torch.cat([forward, back], -1)
    return (steps if a.flag("output_sequence") else h.unsqueeze(0)), h, c


def _lstm(
    a: Arguments, suffix: str, h: torch.Tensor, c: torch.Tensor, *, backwards: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One direction. Gates lie in the order input, forget, output, cell."""
    gate = _activation(a, "recurrent_activation", "sigmoid")
    cell, final = _activation(a, "cell_activation", "tanh"), _activation(a, "activation", "tanh")
    weight, recurrent = a.tensor("weight_ih" + suffix), a.tensor("weight_hh" + suffix)
    bias, peephole = a.maybe("bias" + suffix), a.maybe("peephole" + suffix)
    into, forget, out = peephole.chunk(3) if peephole is not None else (torch.zeros(()),) * 3
    clip = a.number("clip") if a.has("clip") else None
    outputs = []
    for x in _in_order(a.tensor("x"), backwards):
        total = x @ weight.T + h @ recurrent.T
        total = total if bias is None else total + bias
        i, f, o, z = total.chunk(4, -1)
        z = cell(z)
        kept = gate(f + forget * c) * c + gate(i + into * c) * z
        c = kept if clip is None else kept.clamp(-clip, clip)
        h = gate(o + out * c) * final(c)
        outputs.append(h)
    return torch.stack(outputs[::-1] if backwards else outputs), h, c


@op("gru")
def gru(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates lie in the order reset, update (z), output."""
    gate = _activation(a, "recurrent_activation", "sigmoid")
    final = _activation(a, "activation", "tanh")
    backwards = a.text("direction", "forward") == "reverse"
    reset_after = a.flag("reset_after")
    h = a.tensor("initial_h")
    weights, recurrents = a.tensor("weight_ih").chunk(3), a.tensor("weight_hh").chunk(3)
    biases = a.tensor("bias").chunk(3) if a.has("bias") else (torch.zeros(()),) * 3
    inner = a.tensor("input_bias").chunk(3) if a.has("input_bias") else (torch.zeros(()),) * 3
    outputs = []
    for x in _in_order(a.tensor("x"), backwards):
        fed = [x @ w.T + b for w, b in zip(weights, inner, strict=True)]
        r = gate(fed[0] + h @ recurrents[0].T + biases[0])
        z = gate(fed[1] + h @ recurrents[1].T + biases[1])
        if reset_after:
            o = final(fed[2] + r * (h @ recurrents[2].T + biases[2]))
        else:
            o = final(fed[2] + (r * h) @ recurrents[2].T + biases[2])
        h = (1 - z) * o + z * h
        outputs.append(h)
    steps = torch.stack(outputs[::-1] if backwards else outputs)
    return (steps if a.flag("output_sequence") else h.unsqueeze(0)), h


@op("rnn")
def rnn(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    activation = _activation(a, "activation", "tanh")
    backwards = a.text("direction", "forward") == "reverse"
    h, bias = a.tensor("initial_h"), a.maybe("bias")
    outputs = []
    for x in _in_order(a.tensor("x"), backwards):
        total = x @ a.tensor("weight_ih").T + h @ a.tensor("weight_hh").T
        h = activation(total if bias is None else total + bias)
        outputs.append(h)
    steps = torch.stack(outputs[::-1] if backwards else outputs)
    return (steps if a.flag("output_sequence") else h.unsqueeze(0)), h
