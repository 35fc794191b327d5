"""What a model gives, and what may be said of it: shapes, meaning, classes, order of maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pocket_format import PocketBackend
from torch import nn

from timmx_core import api
from timmx_core.backend import TensorSpec
from timmx_core.errors import ModelError, RequestError
from timmx_core.files import manifest
from timmx_core.lifecycle import verify_file as reverification
from timmx_core.models.outputs import FeatureMap
from timmx_core.random_weights.informative import make_informative
from timmx_core.testing.models import INPUT_SIZE, TIMM_NAME, Trunk, tiny_cnn, two_outputs
from timmx_core.testing.plugins import manager_of


class LabelledPocket(PocketBackend):
    """Its manifest has room for names of classes."""

    refuses: dict[str, str] = {}  # noqa: RUF012


def export(model: nn.Module, folder: Path, **given: Any) -> Any:
    backend = LabelledPocket()
    given = {"input_size": INPUT_SIZE} | given
    return api.export(
        "pocket", model, output=folder / "model.pocket", manager=manager_of(backend), **given
    )


def informative(model: nn.Module, size: tuple[int, ...] = INPUT_SIZE) -> nn.Module:
    model.eval()
    generator = torch.Generator().manual_seed(0)
    make_informative(model, torch.randn(8, *size, generator=generator), 0)
    return model


def names_file(folder: Path, count: int) -> str:
    path = folder / f"{count}.txt"
    path.write_text("\n".join(f"class {i}" for i in range(count)), encoding="utf-8")
    return str(path)


def fine_tuned(classes: int = 5) -> nn.Module:
    """As people do it: the head is exchanged, and the module's word on its classes is stale."""
    torch.manual_seed(0)
    model = timm.create_model(TIMM_NAME)
    model.fc = nn.Linear(model.num_features, classes)
    return informative(model)


class Maps(nn.Module):
    """Logits of a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.trunk(x))
        return y


class Given(nn.Module):
    """Gives what `make` makes of (N, 8) and a map."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        features = self.trunk(x)
        return self.make(features.mean((2, 3)), features)


# --------------------------------------------------------------------------- classes and labels


def test_the_classes_are_those_of_a_head_that_was_replaced(tmp_path: Path) -> None:
    result = export(fine_tuned(), tmp_path, labels=names_file(tmp_path, 5), verify=False)
    assert result.manifest["model"]["num_classes"] == 5
    assert result.manifest["labels"] == [f"class {i}" for i in range(5)]
    assert result.manifest["outputs"][0]["shape"] == [1, 5]


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (fine_tuned, "imagenet-1k", "1000 labels for 5 classes"),
        (tiny_cnn, 11, "11 labels for 10 classes"),
        (Maps, 4, "no single output of shape"),
        (lambda: Given(lambda flat, _: (flat, flat + 1)), 8, "no single output of shape"),
        (lambda: timm.create_model(TIMM_NAME, num_classes=0), 96, "no single output of shape"),
    ],
)
def test_labels_that_the_output_does_not_bear_out_are_refused(
    tmp_path: Path, model: Any, labels: int | str, words: str
) -> None:
    source = labels if isinstance(labels, str) else names_file(tmp_path, labels)
    with pytest.raises(RequestError, match=words):
        export(model().eval(), tmp_path, labels=source)


def test_labels_of_several_outputs_are_those_of_the_one_with_classes(tmp_path: Path) -> None:
    result = export(two_outputs(), tmp_path, labels=names_file(tmp_path, 10), verify=False)
    assert result.manifest["model"]["num_classes"] == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["labels"].append("one more"), "11 labels for an output of 10"),
        (lambda m: m["model"].update(num_classes=1000), "1000 classes for an output of 10"),
        (
            lambda m: m["outputs"][0].update(shape=[1, 10, 4, 4]),
            "10 labels for no single output of classes",
        ),
    ],
)
def test_a_manifest_whose_labels_are_not_those_of_its_output_fails(
    tmp_path: Path, change: Any, words: str
) -> None:
    result = export(tiny_cnn(), tmp_path, labels=names_file(tmp_path, 10), verify=False)
    content = json.loads(json.dumps(result.manifest))
    assert reverification._disagreement(content) == ""
    change(content)
    content["sha256"] = manifest.digest(content)
    assert words in reverification._disagreement(content)


# --------------------------------------------------------------------------------- feature maps


@pytest.mark.parametrize("name", [TIMM_NAME, "test_vit"])
@pytest.mark.parametrize("indices", [(1, 0), (-1, 0)])
def test_maps_come_in_the_order_that_they_are_asked_for(
    name: str, indices: tuple[int, ...]
) -> None:
    other = api.load_model(name, out_indices=indices[::-1])
    asked = api.load_model(name, out_indices=indices)
    with torch.no_grad():
        want = other.module(*other.example_inputs)[::-1]
        got = asked.module(*asked.example_inputs)
    for ours, theirs, spec in zip(got, want, asked.outputs, strict=True):
        assert spec.shape == tuple(ours.shape) == tuple(theirs.shape)
        assert torch.equal(ours, theirs)
    assert not torch.equal(got[0].mean((2, 3))[:, :8], got[1].mean((2, 3))[:, :8])


def test_the_stride_of_each_map_is_its_own(tmp_path: Path) -> None:
    backend = PocketBackend()
    result = api.export(
        "pocket",
        TIMM_NAME,
        out_indices=(3, 1),
        input_size=(3, 64, 64),
        output=tmp_path / "maps.pocket",
        manager=manager_of(backend),
    )
    assert [(o["shape"], o["stride"]) for o in result.manifest["outputs"]] == [
        ([1, 192, 4, 4], 16),
        ([1, 32, 16, 16], 4),
    ]
    assert result.manifest["model"]["task"] == "features"
    assert result.verdict.status == "verified"


@pytest.mark.parametrize("indices", [(1, 1), (1, -4)])
def test_one_map_asked_for_twice_is_refused(indices: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="feature map 1 was asked for twice"):
        api.load_model(TIMM_NAME, out_indices=indices, input_size=(3, 64, 64))


@pytest.mark.parametrize("wrong", [{"channels": 33}, {"stride": 16}, {"stride": 1}])
def test_maps_that_are_not_what_timm_says_of_them_are_an_error(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, int]
) -> None:
    from timmx_core.models import build as model

    def wrongly(module: nn.Module) -> Any:
        return (FeatureMap(**{"channels": 32, "stride": 4} | wrong),), (0,)

    monkeypatch.setattr(model, "feature_maps", wrongly)
    with pytest.raises(ModelError, match="timm says"):
        api.load_model(TIMM_NAME, out_indices=(1,), input_size=(3, 64, 64))


@pytest.mark.parametrize(
    ("name", "size", "layout"),
    [("inception_v3", 107, "NCHW"), ("swin_tiny_patch4_window7_224", 64, "NHWC")],
)
def test_maps_without_padding_and_with_channels_last(name: str, size: int, layout: str) -> None:
    loaded = api.load_model(name, features=True, input_size=(3, size, size))
    assert {(o.role, o.layout) for o in loaded.outputs} == {("features", layout)}


# ----------------------------------------------------------------------- the meaning of outputs


def features_only() -> nn.Module:
    return informative(timm.create_model(TIMM_NAME, features_only=True, out_indices=(3, 1)))


@pytest.mark.parametrize(
    ("model", "roles", "task"),
    [
        (tiny_cnn, ["logits"], "classifier"),
        (Maps, ["features"], "features"),
        (features_only, ["features", "features"], "features"),
        (two_outputs, ["logits", "features"], "classifier"),
        (lambda: Given(lambda flat, x: [x, flat]), ["features", "logits"], "classifier"),
        (lambda: Given(lambda flat, _: (flat, flat * 2)), ["other", "other"], "other"),
        (lambda: Given(lambda _, x: x.flatten(2)), ["other"], "other"),
        (lambda: timm.create_model(TIMM_NAME, num_classes=0), ["embedding"], "embedding"),
    ],
)
def test_every_output_is_called_what_it_is_and_its_snippet_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    roles: list[str],
    task: str,
) -> None:
    manager = manager_of(PocketBackend())
    result = api.export(
        "pocket",
        informative(model()),
        input_size=INPUT_SIZE,
        output=tmp_path / "model.pocket",
        manager=manager,
        accept_inconclusive=True,
    )
    outputs = result.manifest["outputs"]
    assert [o["role"] for o in outputs] == roles
    assert result.manifest["model"]["task"] == task
    rated = {m.output for m in result.verdict.measurements if m.top1 is not None}
    assert rated == {o["name"] for o in outputs if o["role"] == "logits"}
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    _, source = api.inspect_with_snippet(result.path, manager=manager)
    found: dict[str, Any] = {}
    exec(source, found)
    assert [list(o.shape) for o in found["outputs"]] == [o["shape"] for o in outputs]


def test_a_module_s_own_maps_have_the_strides_of_the_order_that_it_gives_them_in() -> None:
    from timmx_core.lifecycle.reference import make_subject
    from timmx_core.models.plain import PLAIN
    from timmx_core.request.options import make_request

    request = make_request(PLAIN, features_only(), {"input_size": (3, 64, 64)})
    built = make_subject(request, {}).built
    assert [(o.shape, o.stride) for o in built.outputs] == [((32, 16, 16), 4), ((192, 4, 4), 16)]


@pytest.mark.parametrize(
    "model", [Maps, lambda: Given(lambda flat, _: (flat, flat)), features_only]
)
def test_a_softmax_without_classes_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(RequestError, match="no single output of shape"):
        export(model().eval(), tmp_path, softmax=True)


def test_a_softmax_is_of_the_one_output_that_has_classes(tmp_path: Path) -> None:
    result = export(two_outputs(), tmp_path, softmax=True)
    assert result.verdict.status == "verified"
    assert [o["role"] for o in result.manifest["outputs"]] == ["probabilities", "features"]
    loaded = api.load_model(two_outputs(), input_size=INPUT_SIZE, softmax=True)
    probabilities, features = loaded.module(*loaded.example_inputs)
    assert float(probabilities.detach().sum()) == pytest.approx(1, abs=1e-5)
    assert float(features.detach().sum()) > 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda flat, _: (flat, None), "gives None"),
        (lambda flat, _: {"a": flat, "b": 3}, "a value of type int"),
        (lambda flat, _: "text", "a value of type str"),
        (lambda flat, _: (), "gives no tensor"),
        (lambda flat, _: flat.argmax(1), "is int64"),
        (lambda flat, _: (flat, flat.argmax(1, keepdim=True)), "output 1 of the model is int64"),
        (lambda flat, _: flat > 0, "is bool"),
        (lambda flat, _: flat.half(), "is float16"),
        (lambda flat, _: flat.double(), "is float64"),
        (lambda flat, _: flat.sum(), "first dimension is not the batch"),
        (lambda flat, _: flat.T, "first dimension is not the batch"),
        (lambda flat, _: flat[:, :0], "is empty"),
        (lambda _, x: x.flatten(1)[:, x[0].flatten() > 1], "for one image"),
    ],
)
def test_what_no_file_could_give_or_be_verified_by_is_refused(make: Any, words: str) -> None:
    module = informative(Given(make))
    with pytest.raises(RequestError, match=words):
        api.load_model(module, input_size=INPUT_SIZE)


def test_the_ports_have_the_meaning_of_the_outputs() -> None:
    (port,) = api.load_model(Maps(), input_size=INPUT_SIZE).outputs
    assert port == TensorSpec("output", (1, 4, 16, 16), "float32", "features", "NCHW")
