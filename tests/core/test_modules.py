"""Modules of users: what they say of their input, what they raise, what numbers they hold."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pocket_format import PocketBackend
from safetensors.torch import save_file
from torch import nn

from timmx_core import api
from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel
from timmx_core.errors import ExportError, ModelError, RequestError, TimmxError
from timmx_core.lifecycle.reference import eval_crop, make_subject
from timmx_core.models.build import BuiltModel
from timmx_core.models.plain import PLAIN
from timmx_core.models.weights import sources as weights
from timmx_core.request import options
from timmx_core.testing.models import INPUT_SIZE, TIMM_NAME, tiny_cnn
from timmx_core.testing.plugins import manager_of
from timmx_core.toolkit.capture import Capturer


def built(model: Any, **given: Any) -> BuiltModel:
    request = options.make_request(PLAIN, model, given)
    return make_subject(request, PLAIN.build_options(request)).built


def export(model: Any, folder: Path, backend: PocketBackend | None = None, **given: Any) -> Any:
    return api.export(
        "pocket",
        model,
        output=folder / "model.pocket",
        manager=manager_of(backend or PocketBackend()),
        **{"input_size": INPUT_SIZE, "verify": False} | given,
    )


def saying(**configuration: Any) -> nn.Module:
    """A module that says this of its input."""
    module = tiny_cnn()
    module.pretrained_cfg = {"input_size": INPUT_SIZE} | configuration  # type: ignore[assignment]
    return module


# ------------------------------------------------------------------------------------ its input


@pytest.mark.parametrize(
    ("make", "size", "note"),
    [
        (lambda: timm.create_model("test_vit"), (3, 160, 160), ""),
        (lambda: timm.create_model("test_vit", img_size=96), (3, 96, 96), "96x96"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=(96, 64), depth=1),
            (3, 96, 64),
            "96x64",
        ),
        (lambda: timm.create_model(TIMM_NAME, in_chans=1), (1, 160, 160), "for 1 channel,"),
    ],
)
def test_a_timm_module_is_taken_at_its_own_size_and_channels(
    make: Callable[[], nn.Module], size: tuple[int, ...], note: str
) -> None:
    model = built(make().eval())
    assert model.preprocessing.input_size == size
    assert len(model.preprocessing.mean) == len(model.preprocessing.std) == size[0]
    assert [note in text for text in model.notes if "built for" in text] == ([True] if note else [])


def test_pixels_that_are_folded_into_channels_are_not_taken_for_channels() -> None:
    module = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 1), nn.AdaptiveAvgPool2d(1))
    module.pretrained_cfg = {"input_size": INPUT_SIZE}  # type: ignore[assignment]
    assert built(module).preprocessing.input_size == INPUT_SIZE


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("test_vit", {"img_size": [96, 96]}, (3, 96, 96)),
        ("test_resnet", {"in_chans": 1}, (1, 160, 160)),
    ],
)
def test_a_folder_is_taken_as_its_arguments_make_it(
    tmp_path: Path, name: str, arguments: dict[str, Any], size: tuple[int, ...]
) -> None:
    config = {"architecture": name, "model_args": arguments, "num_classes": 4}
    config["pretrained_cfg"] = {"input_size": [3, 160, 160]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = timm.create_model(name, num_classes=4, **arguments)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    folder = built(f"local-dir:{tmp_path}", pretrained=True)
    assert folder.preprocessing.input_size == size


def test_a_size_that_a_module_does_not_take_has_a_hint_of_use() -> None:
    fixed = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(RequestError) as caught:
        built(fixed, input_size=(3, 96, 96))
    assert "timmx info" not in caught.value.hint
    assert "input_size" in caught.value.hint


def test_cropping_that_nobody_knows_is_not_made_up(tmp_path: Path) -> None:
    result = export(tiny_cnn(), tmp_path)
    said = {n: result.manifest["preprocessing"][n] for n in CROPPING}
    assert said == dict.fromkeys(CROPPING)
    assert any("does not say how its images" in note for note in result.notes)


CROPPING = {"crop_pct": 0.5, "interpolation": "nearest", "crop_mode": "border"}


@pytest.mark.parametrize("model", [tiny_cnn, lambda: TIMM_NAME])
def test_cropping_can_be_said(tmp_path: Path, model: Callable[[], Any]) -> None:
    result = export(model(), tmp_path, **CROPPING)
    assert {n: result.manifest["preprocessing"][n] for n in CROPPING} == CROPPING
    assert {n: result.manifest["options"][n] for n in CROPPING} == CROPPING
    assert not any("does not say how its images" in note for note in result.notes)


@pytest.mark.parametrize("given", [{}, {"crop_pct": 0.8}, {"crop_pct": 0.8, "crop_mode": "squash"}])
def test_a_snippet_crops_as_the_verification_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    manager = manager_of(PocketBackend())
    result = export(tiny_cnn(), tmp_path, **given)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.jpg", quality=100, subsampling=0)
    monkeypatch.chdir(tmp_path)
    _, source = api.inspect_with_snippet(result.path, manager=manager)
    found: dict[str, Any] = {}
    exec(source, found)
    crop = eval_crop(built(tiny_cnn(), input_size=INPUT_SIZE, **given).preprocessing)
    want = np.asarray(crop(Image.open(tmp_path / "image.jpg").convert("RGB")))
    assert found["pixels"].shape == want.shape
    # A pixel's shift of so smooth an image is little; another cut of it is not.
    assert np.abs(found["pixels"].astype(int) - want).mean() < 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crop_pct": 0}, "--crop-pct is above 0"),
        ({"crop_pct": 9}, "--crop-pct is above 0"),
        ({"interpolation": "area"}, "--interpolation is one of"),
        ({"crop_mode": "middle"}, "--crop-mode is one of"),
    ],
)
def test_cropping_that_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        options.make_request(PLAIN, TIMM_NAME, given)


def test_numbers_of_any_library_are_taken() -> None:
    module = saying(mean=torch.tensor([0.1, 0.2, 0.3]), std=np.array([0.5, 0.5, 0.5]))
    pre = built(module, input_size=np.array(INPUT_SIZE)).preprocessing
    assert pre.input_size == INPUT_SIZE
    assert pre.mean == pytest.approx((0.1, 0.2, 0.3))
    given = {"mean": torch.tensor([0.5, 0.5, 0.5]), "std": np.full(3, 0.5)}
    assert built(tiny_cnn(), input_size=list(INPUT_SIZE), **given).preprocessing.mean == (0.5,) * 3


# -------------------------------------------------------------------------- what goes wrong in it


class Raising(nn.Module):
    """Raises in its forward()."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


class Holding(nn.Module):
    """Holds something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_cnn()
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y


class OddState(nn.Module):
    """Its state dict holds more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_cnn()

    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Path("model"), RequestError, "a model cannot be .*Path"),
        (lambda: None, RequestError, "a model cannot be NoneType"),
        (lambda: 5, RequestError, "a model cannot be int"),
        (lambda: lambda x: x, RequestError, "a model cannot be function"),
        (lambda: nn.ReLU, RequestError, "a model cannot be the class ReLU"),
        (Holding, ModelError, "cannot be copied"),
        (lazy, ModelError, "has no shape yet"),
        (lambda: nn.Conv2d(3, 8, 3, device="meta"), ModelError, "meta device"),
        (lambda: Raising(KeyError("x")), ModelError, "KeyError"),
        (lambda: Raising(AttributeError("no such thing")), ModelError, "no such thing"),
        (lambda: Raising(OSError("no file")), ModelError, "no file"),
        (lambda: Raising(NotImplementedError("later")), TimmxError, "later"),
        (lambda: Raising(ZeroDivisionError("by zero")), ModelError, "by zero"),
        (lambda: Raising(RuntimeError("shapes")), RequestError, "cannot run on 3x32x32: shapes"),
        (lambda: saying(std=(0.0, 1.0, 1.0)), ModelError, "makes no sense: std"),
        (lambda: saying(mean=(float("nan"),) * 3), ModelError, "makes no sense: mean"),
        (lambda: saying(mean="bright"), ModelError, "makes no sense"),
        (lambda: saying(interpolation="area"), ModelError, "makes no sense: interpolation"),
        (lambda: saying(crop_pct=0.0), ModelError, "makes no sense: crop_pct"),
        (lambda: saying(crop_mode="middle"), ModelError, "makes no sense: crop_mode"),
    ],
)
def test_whatever_a_module_does_is_an_error_of_timmx(
    make: Callable[[], Any], kind: type[TimmxError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        api.load_model(make(), input_size=INPUT_SIZE)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("model", [nn.ReLU(), Path("model"), None])
@pytest.mark.parametrize(
    "call", [api.describe_model, lambda model: api.export_all(model, ["any"], output="nowhere")]
)
def test_where_a_name_is_wanted_nothing_else_is_taken(call: Any, model: Any) -> None:
    with pytest.raises(RequestError, match=r"a model (is given by its name|cannot be)"):
        call(model)
    assert not Path("nowhere").exists()


def test_the_traceback_of_a_module_s_own_code_is_the_cause() -> None:
    error = KeyError("x")
    with pytest.raises(ModelError) as caught:
        api.load_model(Raising(error), input_size=INPUT_SIZE)
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert cause.__traceback__ is not None
    assert "forward" in api.cause_of(caught.value)


def test_a_state_that_is_no_tensor_is_left_alone() -> None:
    assert len(built(OddState(), input_size=INPUT_SIZE).weights["sha256"]) == 64


@pytest.mark.parametrize("method", ["fuse", "reparameterize", "switch_to_deploy"])
def test_a_child_of_ones_own_is_not_folded(method: str) -> None:
    def fold(self: nn.Module, data: Any = None) -> Any:
        raise AssertionError("it is not timm's")

    kind = type("Own", (nn.Conv2d,), {method: fold})
    module = nn.Sequential(kind(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    api.load_model(module, input_size=INPUT_SIZE)


def test_a_module_that_stays_in_training_mode_is_noted() -> None:
    class Stays(nn.Sequential):
        def train(self, mode: bool = True) -> Any:
            return self

    module = Stays(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    note, *_ = built(module, input_size=INPUT_SIZE).notes
    assert note.startswith("Stays and 3 more stay in training mode")


def test_torchscript_cannot_be_captured_and_is_named() -> None:
    module = nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3)), nn.AdaptiveAvgPool2d(1))
    capture = Capturer(module.eval(), (torch.zeros(1, *INPUT_SIZE),), (1, 1, 1))
    with pytest.raises(ExportError, match="TorchScript, and 0 is scripted or traced"):
        capture()


# ------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: replace(a, inputs=(replace(a.inputs[0], dtype="complex64"),)), "complex64"),
        (lambda a: replace(a, outputs=(replace(a.outputs[0], name=""),)), "outputs/0/name"),
        (lambda a: replace(a, outputs=(replace(a.outputs[0], shape=(1, 0)),)), "outputs/0/shape"),
        (lambda a: replace(a, outputs=(replace(a.outputs[0], shape=(np.int64(1), 10)),)), "JSON"),
        (lambda a: replace(a, outputs=()), "outputs"),
        (lambda a: replace(a, report={"share": float("nan")}), "not JSON compliant"),
    ],
)
def test_a_file_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, change: Callable[[Artifact], Artifact], words: str
) -> None:
    class Odd(PocketBackend):
        def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            return change(super().export(model, request, context))

    with pytest.raises(ExportError, match=words):
        export(tiny_cnn(), tmp_path, Odd())
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------- its numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_other_numbers_is_exported_in_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    module = tiny_cnn().to(dtype)
    result = export(module, tmp_path, verify=dtype == torch.float16)
    name = str(dtype).removeprefix("torch.")
    assert any(f"weights are {name}" in note for note in result.notes)
    assert result.manifest["outputs"][0]["dtype"] == "float32"
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert result.manifest["model"]["weights"]["sha256"] == weights.digest(module)
    if dtype == torch.float16:
        assert result.verdict.status == "verified"
