"""Checkpoints are read safely, fitted exactly, and a hub that is away is noticed at once."""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import timmx_core
from timmx_core.errors import ModelError
from timmx_core.models import build as models
from timmx_core.models.weights import sources as weights
from timmx_core.models.weights.checkpoints import read_checkpoint, read_torch
from timmx_core.models.weights.sources import load_into
from timmx_core.request import shared_options
from timmx_core.testing.models import TinyCNN, tiny_cnn


class Evil:
    """Leaves a trace where its pickle is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return tiny_cnn().state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"state_dict": {}, "state_dict_ema": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_all_kinds(
    tmp_path: Path, state: dict[str, torch.Tensor], wrap: Any, legacy: bool
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    assert equal(read_checkpoint(path), state)


@pytest.mark.parametrize("metric", [0.5, np.float64(0.5), np.float32(0.5)], ids=repr)
@pytest.mark.parametrize("ema", [False, True])
def test_checkpoints_of_timm_s_own_training_script(
    tmp_path: Path, metric: float, ema: bool
) -> None:
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = tiny_cnn()
    averaged = ModelEmaV3(tiny_cnn(seed=1)) if ema else None
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="tiny", lr=np.float64(0.1), data=[1, "2"]),
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=metric)
    found = read_checkpoint(tmp_path / "model_best.pth.tar")
    assert equal(found, tiny_cnn(seed=int(ema)).state_dict())


class Greedy:
    """numpy would take two gigabytes for it."""

    def __reduce__(self) -> Any:
        scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
        return scalar, (np.dtype("V2000000000"),)


class Odd:
    """A class that nobody knows."""


def test_what_stands_beside_the_weights_is_not_built(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": state, "args": argparse.Namespace(a=1), "metric": Greedy()}, path)
    assert equal(read_checkpoint(path), state)
    content = read_torch(path)
    assert not isinstance(content["args"], argparse.Namespace)
    assert not isinstance(content["metric"], np.generic)
    torch.save({"state_dict": state, "args": Odd()}, path)
    with pytest.raises(ModelError, match=r"build objects: \S*test_weights\.Odd"):
        read_checkpoint(path)


def test_the_content_says_what_a_file_is(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for name in ("weights.SAFETENSORS", "weights.bin"):
        save_file(state, tmp_path / name)
        assert equal(read_checkpoint(tmp_path / name), state)
    torch.save(state, tmp_path / "torch.safetensors")
    assert equal(read_checkpoint(tmp_path / "torch.safetensors"), state)
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ModelError, match="neither safetensors nor what torch"):
        read_checkpoint(tmp_path / "page.pth")


@pytest.mark.parametrize(
    "prefix", ["model.", "module.model.", "timm_model.", "model._orig_mod.", "net.backbone."]
)
def test_a_prefix_whose_rest_fits_is_taken_off(
    tmp_path: Path, state: dict[str, torch.Tensor], prefix: str
) -> None:
    path, model = tmp_path / "lightning.ckpt", TinyCNN()
    wrapped = {f"{prefix}{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": wrapped, "hyper_parameters": {"lr": 0.1}}, path)
    (note,) = load_into(model, read_checkpoint(path), str(path))
    assert equal(model.state_dict(), state)
    assert prefix.removeprefix("module.").replace("_orig_mod.", "") in note
    assert "loss.weight" in note
    assert str(tmp_path) not in note


def test_of_two_models_in_one_file_none_is_guessed(state: dict[str, torch.Tensor]) -> None:
    both = {f"{who}.{k}": v for who in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(ModelError, match=r"student\., teacher\."):
        load_into(TinyCNN(), both, "weights.pth")


def test_compiled_parts_have_the_names_of_the_whole(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    names = list(state)
    inner = {k.replace(".", "._orig_mod.", 1): v for k, v in state.items()}
    assert list(inner) != names
    torch.save(inner, tmp_path / "compiled.pth")
    assert equal(read_checkpoint(tmp_path / "compiled.pth"), state)


def shared_with(**given: Any) -> dict[str, Any]:
    return {o.name: o.default for o in shared_options.SHARED_OPTIONS} | given


def test_a_transformer_s_weights_are_fitted_to_another_size(tmp_path: Path) -> None:
    import timm

    path = tmp_path / "vit.safetensors"
    made = timm.create_model("test_vit", num_classes=5)
    save_file(made.state_dict(), path)
    shared = shared_with(checkpoint=path, num_classes=5, input_size=(3, 96, 96), seed=0)
    built = models.build("test_vit", shared, {})
    assert torch.equal(built.module.state_dict()["head.weight"], made.state_dict()["head.weight"])
    assert any("resampled" in note and "pos_embed from 1x" in note for note in built.notes)
    same = models.build("test_vit", shared | {"input_size": None}, {})
    assert not any("filter" in note for note in same.notes)


@pytest.fixture
def local_dir(tmp_path: Path) -> Path:
    import timm

    folder = tmp_path / "saved"
    made = timm.create_model("test_resnet")
    config = dict(made.pretrained_cfg)
    timm.models.save_for_hf(made, folder, model_config=config, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    ("name", "length"), [("model.safetensors", 0), ("model.safetensors", 5000), ("config.json", 30)]
)
def test_a_folder_that_was_copied_in_part_says_so(local_dir: Path, name: str, length: int) -> None:
    path = local_dir / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError) as caught:
        models.build(f"local-dir:{local_dir}", shared_with(pretrained=True), {})
    assert "local-dir:" in caught.value.message
    assert "again" in caught.value.hint


def test_a_folder_of_another_model_says_what_does_not_fit(local_dir: Path) -> None:
    path = local_dir / "model.safetensors"
    state = load_file(path)
    state["odd.weight"] = state.pop(min(state))
    state["fc.weight"] = torch.zeros(7, 2)
    save_file(state, path)
    with pytest.raises(ModelError) as caught:
        models.build(f"local-dir:{local_dir}", shared_with(pretrained=True), {})
    assert "odd.weight" in caught.value.message
    assert "fc.weight" in caught.value.message
    assert "\n" not in caught.value.message


def test_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.safetensors")
    assert equal(read_checkpoint(tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(
    tmp_path: Path, state: dict[str, torch.Tensor], kind: str
) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": state, "extra": Evil(trace)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    says = "could run code" if kind == "plain" else r"wants to run code.*: posix\.system"
    with pytest.raises(ModelError, match=says) as caught:
        read_checkpoint(path)
    assert not trace.exists()
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_an_error_of_one_line(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, share: float
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, "text", np.zeros(3)], ids=str)
def test_a_file_without_tensors_says_what_was_expected(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "odd.pth")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="is not a file"):
        read_checkpoint(tmp_path)


def test_names_that_do_not_fit_are_counted_and_five_of_each_shown(
    state: dict[str, torch.Tensor],
) -> None:
    renamed = {f"{name}.other": tensor for name, tensor in state.items()}
    with pytest.raises(ModelError) as caught:
        load_into(TinyCNN(), renamed, "weights.pth")
    missing, unexpected = caught.value.message.split(";")
    # Counters of batches are no weights, and may be missing.
    needed = [name for name in state if not name.endswith("num_batches_tracked")]
    assert f"{len(needed)} missing: " in missing
    assert f"{len(state)} unexpected: " in unexpected
    for part, total in ((missing, len(needed)), (unexpected, len(state))):
        assert part.endswith(f"and {total - 5} more")
        assert part.count(",") == 4


def test_shapes_that_differ_are_shown(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"] = torch.zeros(7, 8)
    with pytest.raises(ModelError, match=r"head\.weight \(7x8 in the file, 10x8 in the model\)"):
        load_into(TinyCNN(), state, "weights.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to(torch.complex64), r"holds complex numbers \(complex64\)"),
        (lambda t: t.to(torch.int8), "holds int8, and the model computes with real numbers"),
        (lambda t: t > 0, "holds bool"),
        (lambda t: t.to_sparse(), "is a sparse tensor"),
        (lambda t: t.to("meta"), "holds no numbers"),
    ],
    ids=["complex", "int8", "bool", "sparse", "meta"],
)
def test_tensors_that_are_no_real_numbers_are_refused_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor], change: Any, words: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state | {"head.weight": change(state["head.weight"])}, path)
    with pytest.raises(ModelError, match=rf"w\.pth: head\.weight {words}") as caught:
        load_into(TinyCNN(), read_checkpoint(path), str(path))
    assert caught.value.hint


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_any_width_are_taken(
    state: dict[str, torch.Tensor], kind: torch.dtype
) -> None:
    model = TinyCNN()
    load_into(model, {name: tensor.to(kind) for name, tensor in state.items()}, "weights.pth")
    assert torch.allclose(model.state_dict()["head.weight"], state["head.weight"], rtol=1e-2)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int8])
def test_a_folder_whose_weights_are_no_real_numbers(local_dir: Path, kind: torch.dtype) -> None:
    path = local_dir / "model.safetensors"
    state = load_file(path)
    save_file(state | {"fc.weight": state["fc.weight"].to(kind)}, path)
    with pytest.raises(ModelError, match=r"fc\.weight holds"):
        models.build(f"local-dir:{local_dir}", shared_with(pretrained=True), {})


def test_every_tensor_is_loaded(state: dict[str, torch.Tensor]) -> None:
    model = TinyCNN()
    load_into(model, state, "weights.pth")
    assert equal(model.state_dict(), state)
    assert weights.digest(model) == weights.digest(tiny_cnn())
    assert weights.digest(model) != weights.digest(tiny_cnn(seed=1))


# ------------------------------------------------------------------------------------ the hub


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_answers_nothing_is_given_up_in_seconds(silent_server: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        weights.require_hub(silent_server, "cannot download")
    assert time.monotonic() - start < 10
    assert "local-dir:" in caught.value.hint
    assert "--checkpoint" in caught.value.hint


def test_a_hub_that_refuses_is_given_up_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        weights.require_hub("http://127.0.0.1:9", "cannot download")
    assert time.monotonic() - start < 5


def test_cached_weights_leave_the_hub_s_client_as_it_was(
    tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is off for the model that is cached, and on for the next, which is not."""
    from huggingface_hub import constants

    cached = tmp_path / "models--timm--test_resnet.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    trained = timm.create_model("test_resnet").state_dict()
    save_file(trained, cached / "snapshots" / "abc" / "model.safetensors")
    for module in (constants, sys.modules["huggingface_hub.file_download"]):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", silent_server)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    environment = dict(os.environ)
    loaded = timmx_core.load_model("test_resnet", pretrained=True)
    state = loaded.module.state_dict()
    assert torch.equal(state["model.fc.bias"], trained["fc.bias"])
    assert constants.HF_HUB_OFFLINE is False
    assert dict(os.environ) == environment
    with pytest.raises(ModelError, match="cannot download the weights of test_vit: the hub"):
        timmx_core.load_model("test_vit", pretrained=True)


def test_the_command_says_so_within_ten_seconds(tmp_path: Path, silent_server: str) -> None:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": silent_server,
        "HF_HOME": str(tmp_path / "hub"),
    }
    program = (
        "from pocket_format import PocketBackend\n"
        "from timmx_core import api\nfrom timmx_core.testing import manager_of\n"
        "api.export('pocket', 'resnet18', pretrained=True, output='x.pocket', "
        "manager=manager_of(PocketBackend()))"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    )
    # Ten seconds are the promise; a machine with other work on it starts Python more slowly.
    assert time.monotonic() - start < (10 if os.getloadavg()[0] < (os.cpu_count() or 1) else 30)
    assert "timmx_core.errors.ModelError" in done.stderr
    assert "local-dir:" in done.stderr
    assert "--checkpoint" in done.stderr
