"""Random weights that let every layer show: what a converter drops is then found out."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from timmx_core.random_weights.conditioning import LEAST_DB, rounded_db
from timmx_core.random_weights.informative import make_informative
from timmx_core.verification.measure import decibels
from timmx_core.verification.probes import Recipe, make

FLOOR_DB = 80.0  # of fp32


def probes_for(model: nn.Module) -> torch.Tensor:
    _, height, width = model.pretrained_cfg["input_size"]  # type: ignore[index]
    pixels = torch.from_numpy(make(Recipe(int(height), int(width), 3)))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def informative(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = timm.create_model(name).eval()
    pixels = probes_for(model)
    make_informative(model, pixels, seed)
    return model, pixels


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",  # last norms at zero
        "test_convnext",  # LayerScale at 1e-6
        "test_efficientnet",  # squeeze and excitation
        "test_mambaout",  # gates
        "test_vit2",  # LayerScale and register tokens
    ],
)
def test_no_layer_is_hidden(name: str) -> None:
    model, pixels = informative(name)
    with torch.no_grad():
        want = model(pixels)
        signal = float(((want - want.mean(0)) ** 2).mean())
        hidden = []
        for path, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                kept = module.weight.clone()
                module.weight.zero_()
                noise = float(((model(pixels) - want) ** 2).mean())
                module.weight.copy_(kept)
                if decibels(signal, noise) >= FLOOR_DB:
                    hidden.append(path)
    assert hidden == []


def test_timm_s_own_weights_do_hide_layers() -> None:
    """Or all of this would be for nothing."""
    torch.manual_seed(0)
    model = timm.create_model("test_convnext").eval()
    pixels = probes_for(model)
    with torch.no_grad():
        want = model(pixels)
        signal = float(((want - want.mean(0)) ** 2).mean())
        model.stages[1].blocks[0].mlp.fc2.weight.zero_()
        noise = float(((model(pixels) - want) ** 2).mean())
    assert decibels(signal, noise) > FLOOR_DB


def test_what_vanishes_beside_activations_of_one_is_made_to_matter() -> None:
    """A class token of 1e-6, and the gain of 0 that switches a branch of one number off."""
    module = nn.Module()
    module.token = nn.Parameter(torch.randn(1, 1, 64) * 1e-6)
    module.gain = nn.Parameter(torch.tensor(0.0))
    module.temperature = nn.Parameter(torch.tensor(1.0))
    module.bias = nn.Parameter(torch.zeros(1))
    make_informative(module, torch.zeros(1), 0)
    assert 0.05 < module.token.std().item() < 0.2
    # The bounds of the gain are those that it is drawn between.
    assert 0.5 <= module.gain.item() <= 1.5
    assert module.temperature.item() == 1.0
    assert 0.0 < abs(module.bias.item()) < 0.5


def test_the_seed_decides() -> None:
    one, two = (informative("test_resnet")[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = informative("test_resnet", seed=1)[0].state_dict()
    assert not torch.equal(one["bn1.weight"], other["bn1.weight"])


def test_the_number_of_threads_does_not_decide() -> None:
    """Or the same request would give other bytes on another machine."""
    threads = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            made.append(informative("test_resnet")[0].state_dict())
    finally:
        torch.set_num_threads(threads)
    for other in made[1:]:
        assert [name for name, value in made[0].items() if not value.equal(other[name])] == []
    assert {value.dtype for value in made[0].values()} == {torch.float32, torch.int64}


def test_a_model_may_keep_what_it_has_computed() -> None:
    """Attention biases here, which are in float32 afterwards as before."""
    model, pixels = informative("efficientvit_m0")
    with torch.no_grad():
        assert model(pixels).dtype == torch.float32


def test_the_model_is_left_in_eval_mode_with_its_momenta() -> None:
    model, _ = informative("test_resnet")
    assert not any(module.training for module in model.modules())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.momentum == 0.1 for norm in norms)
    assert all(bool(torch.isfinite(norm.running_var).all()) for norm in norms)  # type: ignore[arg-type]


def chaotic(layers: int) -> tuple[nn.Module, torch.Tensor]:
    """Each pair of an activation and a norm makes small differences larger, as in ConvMixer."""
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(3 if i == 0 else 32, 32, 1) for i in range(layers))
    blocks = (nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(32)) for conv in convolutions)
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    return model, torch.randn(8, 3, 1, 1) + torch.randn(8, 3, 16, 16) / 2


def float32_db(model: nn.Module, images: torch.Tensor) -> float:
    """How far PyTorch's answers are from those of float64."""
    with torch.no_grad():
        want = copy.deepcopy(model).double()(images.double())
        got = model(images)
    return decibels(float(((want - want.mean(0)) ** 2).mean()), float(((want - got) ** 2).mean()))


def test_small_differences_do_not_grow_until_nothing_else_is_left() -> None:
    """Or a right file would be 50 dB from PyTorch, which is 50 dB from itself in float64."""
    model, images = chaotic(60)
    drawn = copy.deepcopy(model)
    make_informative(drawn, images, 0, means=())
    make_informative(model, images, 0)
    assert rounded_db(drawn, images) < FLOOR_DB - 10.0
    assert rounded_db(model, images) >= LEAST_DB
    assert float32_db(drawn, images) < FLOOR_DB - 10.0
    assert float32_db(model, images) > LEAST_DB - 6.0  # each layer rounds more than once


def test_weights_that_need_no_mend_get_none() -> None:
    model, pixels = informative("test_resnet")
    torch.manual_seed(0)
    other = timm.create_model("test_resnet").eval()
    make_informative(other, pixels, 0, means=())
    state = other.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
