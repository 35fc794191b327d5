"""From a name or a module to the model that was asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from timmx_core import api
from timmx_core.errors import ModelError, RequestError
from timmx_core.testing.models import INPUT_SIZE, TIMM_NAME, tiny_cnn
from timmx_core.verification.measure import decibels


def test_the_plain_model_has_timm_s_input_contract() -> None:
    loaded = api.load_model("test_resnet")
    port, output = loaded.inputs[0], loaded.outputs[0]
    assert (port.name, port.shape, port.dtype, port.layout) == (
        "input",
        (1, 3, 160, 160),
        "float32",
        "NCHW",
    )
    assert (port.color, port.range) == ("RGB", (0.0, 1.0))
    assert port.mean == timm.create_model("test_resnet").pretrained_cfg["mean"]
    assert (output.name, output.shape, output.role) == ("output", (1, 1000), "logits")
    assert not loaded.module.training


class Remembering(nn.Module):
    """Keeps what it computed first, like some of timm's models."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.kept: torch.Tensor | None = None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = torch.linspace(-1, 1, 4)[:, None].expand(4, 4).contiguous()
        return self.layer(self.kept) + self.layer(image.mean(1))


def test_a_model_that_remembers_can_still_be_captured_with_gradients() -> None:
    loaded = api.load_model(Remembering().eval(), input_size=(3, 4, 4))
    loaded.module(*loaded.example_inputs).sum().backward()


@pytest.mark.parametrize("chans", [1, 2, 5])
def test_any_number_of_channels(chans: int) -> None:
    loaded = api.load_model(TIMM_NAME, in_chans=chans)
    port = loaded.inputs[0]
    assert port.shape[1] == chans
    assert len(port.mean) == len(port.std) == chans
    assert port.color == {1: "GRAY"}.get(chans)
    assert loaded.module(*loaded.example_inputs).shape == (1, 1000)


def test_feature_maps() -> None:
    loaded = api.load_model(TIMM_NAME, out_indices=(1, 3), input_size=(3, 64, 64))
    assert [o.name for o in loaded.outputs] == ["features_0", "features_1"]
    assert [o.shape for o in loaded.outputs] == [(1, 32, 16, 16), (1, 192, 4, 4)]
    assert {o.role for o in loaded.outputs} == {"features"}


def test_pooled_features() -> None:
    loaded = api.load_model("test_vit", embedding=True)
    (output,) = loaded.outputs
    assert (output.role, output.shape) == ("embedding", (1, 64))


def test_another_size_for_a_convolutional_model_and_for_a_transformer() -> None:
    for name, size in ((TIMM_NAME, (3, 96, 64)), ("test_vit", (3, 64, 96))):
        loaded = api.load_model(name, input_size=size)
        assert loaded.inputs[0].shape == (1, *size)
        assert loaded.module(*loaded.example_inputs).shape == (1, 1000)


def test_a_size_that_a_transformer_cannot_take_is_refused_in_a_line() -> None:
    with pytest.raises(RequestError) as caught:
        api.load_model("test_vit", input_size=(3, 100, 101))
    assert "\n" not in str(caught.value)
    assert "100" in caught.value.message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet81", {}, "timm has no model 'resnet81'"),
        ("resnet18.no_such_tag", {}, "timm has no weights"),
        ("local-dir:/nowhere", {}, "does not exist"),
        ("hf-hub:../../etc/passwd", {}, "is not a model name"),
        ("mlflow:model", {}, "is not a model name"),
        ("test_resnet", {"checkpoint": "none.pth"}, "does not exist"),
        ("test_resnet", {"model_kwarg": ("nonsense=1",)}, "no argument nonsense"),
        ("test_resnet", {"model_kwarg": ("num_classes=3",)}, "cannot set num_classes"),
        ("test_resnet", {"model_kwarg": ("3",)}, "wants KEY=VALUE"),
        ("test_resnet", {"device": "tpu"}, "cannot use the device 'tpu'"),
        ("test_resnet", {"num_classes": 10, "labels": "imagenet-1k"}, "1000 labels for 10"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_line(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises((ModelError, RequestError)) as caught:
        api.load_model(name, **options)
    assert words in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_misspelt_name_gets_near_matches() -> None:
    with pytest.raises(ModelError) as caught:
        api.load_model("resnet1888")
    assert "resnet18" in caught.value.hint


def test_a_model_kwarg_is_a_value_and_no_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises((ModelError, RequestError)):
        api.load_model("test_resnet", model_kwarg=(f"block=open({str(trace)!r}, 'w')",))
    assert not trace.exists()
    loaded = api.load_model("test_resnet", model_kwarg=("drop_rate=0.5",))
    assert loaded.module.model.drop_rate == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_is_what_the_model_computes_with(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(7)
    trained = timm.create_model("test_resnet", num_classes=10).eval()
    state = trained.state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    loaded = api.load_model("test_resnet", checkpoint=path, num_classes=10)
    (image,) = loaded.example_inputs
    with torch.no_grad():
        assert torch.allclose(loaded.module(image), trained(image), atol=1e-5)
    with pytest.raises(ModelError, match="of another shape"):
        api.load_model("test_resnet", checkpoint=path)


@pytest.mark.parametrize("name", ["efficientvim_m1", "repvgg_a0"])
def test_models_that_fold_for_inference_compute_the_same(name: str) -> None:
    """In train mode timm's folding breaks the first, and gives another model of the second."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    image = torch.rand(1, 3, 64, 64)
    loaded = api.load_model(model, input_size=(3, 64, 64))
    with torch.no_grad():
        want, got = model.eval()(image), loaded.module(image)
    count = sum(isinstance(m, nn.BatchNorm2d) for m in loaded.module.modules())
    assert count < sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert decibels(float(want.var()), float(((got - want) ** 2).mean())) > 80


# --------------------------------------------------------------------------- a user's module


@pytest.mark.parametrize("given", [{"batch_size": 10**7}, {"batch_opt": 10**7}])
def test_a_batch_that_no_memory_holds_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="a batch of 10,000,000 images of 3x32x32 is more"):
        api.load_model(tiny_cnn(), input_size=INPUT_SIZE, **given)


class Folding(nn.Module):
    """A module that timm's reparameterisation would change in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = timm.create_model("test_byobnet", num_classes=10)
        self.folded = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y


@pytest.mark.parametrize("training", [False, True])
def test_a_user_s_module_is_left_as_it_was(training: bool) -> None:
    module = Folding().train(training)
    module.inner.stem.requires_grad_(False)
    module.inner.head.eval()  # partly frozen, as in fine-tuning
    before = copy.deepcopy(module.state_dict())
    flags = {name: m.training for name, m in module.named_modules()}
    grads = {name: p.requires_grad for name, p in module.named_parameters()}
    kinds = {name: type(m) for name, m in module.named_modules()}
    api.load_model(module, input_size=(3, 64, 64), normalize=True, softmax=True)
    assert {name: type(m) for name, m in module.named_modules()} == kinds
    assert {name: p.requires_grad for name, p in module.named_parameters()} == grads
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: m.training for name, m in module.named_modules()} == flags


def test_a_user_s_weights_are_never_changed_to_make_them_informative() -> None:
    module = tiny_cnn()
    with torch.no_grad():
        module.trunk.norm.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    loaded = api.load_model(module, input_size=INPUT_SIZE)
    inside = dict(loaded.module.named_parameters())
    for name, parameter in module.named_parameters():
        assert torch.equal(inside[f"model.{name}"], parameter)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs input_size"),
        ({"input_size": (3, 32, 32), "pretrained": True}, "a module was given"),
        ({"input_size": (3, 32, 32), "in_chans": 1}, "disagree"),
        ({"input_size": (4, 32, 32)}, "cannot"),
    ],
)
def test_what_makes_no_sense_for_a_module_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        api.load_model(tiny_cnn(), **options)
    assert words in caught.value.message
