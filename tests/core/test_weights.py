"""Checkpoints are read safely, fitted exactly, and a hub that is away is noticed at once."""

from __future__ import annotations

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
import torch
from safetensors.torch import save_file

from timmx_core import weights
from timmx_core.errors import ModelError
from timmx_core.testing.models import TinyCNN, tiny_cnn
from timmx_core.weights import load_into, read_checkpoint


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
    with pytest.raises(ModelError, match="wants to run code") as caught:
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
    renamed = {f"other.{name}": tensor for name, tensor in state.items()}
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
