"""Names of files and folders that are bytes and no text: refused at once, or they simply work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pocket_format import PocketBackend
from safetensors.torch import save_file

import timmx_core
from timmx_core.errors import ArtifactError, ModelError, OutputError
from timmx_core.models.weights.checkpoints import read_checkpoint
from timmx_core.results import ExportResult
from timmx_core.testing.plugins import manager_of

TIMMX = Path(sys.executable).with_name("timmx")
BYTES = os.fsdecode(b"caf\xe9")
MODEL = "test_resnet"


def export(output: Path | None, model: str = MODEL) -> ExportResult:
    manager = manager_of(PocketBackend())
    chosen = None if output is None else str(output)
    return timmx_core.export("pocket", model, output=chosen, manager=manager, verify=False)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing slow may begin."""

    def begun(*_: object) -> None:
        pytest.fail("the model was built")

    monkeypatch.setattr("timmx_core.lifecycle.export._Export.run", begun)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("output", [f"{BYTES}.pocket", f"{BYTES}/ok.pocket"])
def test_the_output_is_refused_before_the_slow_part(tmp_path: Path, output: str) -> None:
    with pytest.raises(OutputError, match="cannot be spelt in UTF-8") as caught:
        export(tmp_path / output)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("slow")
def test_so_is_the_folder_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / BYTES
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(OutputError, match="cannot be spelt in UTF-8"):
        export(None)
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("slow")
def test_a_folder_with_a_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / BYTES
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": MODEL}))
    with pytest.raises(ModelError, match="cannot be spelt in UTF-8"):
        export(tmp_path / "ok.pocket", f"local-dir:{folder}")


def test_a_file_is_read_where_it_was_moved_to_and_not_called_wrong(tmp_path: Path) -> None:
    made = export(tmp_path / "ok.pocket").path
    assert made is not None
    folder = tmp_path / BYTES
    folder.mkdir()
    for place in (folder / made.name, tmp_path / f"{BYTES}.pocket"):
        shutil.copyfile(made, place)
        shutil.copyfile(f"{made}.timmx.json", f"{place}.timmx.json")
        found = timmx_core.inspect(place, manager=manager_of(PocketBackend()))
        assert found.intact
        with pytest.raises(ArtifactError, match="cannot be spelt in UTF-8"):
            timmx_core.verify(place, manager=manager_of(PocketBackend()))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_read(tmp_path: Path, suffix: str) -> None:
    state = {"fc.bias": torch.arange(3.0)}
    plain = tmp_path / f"plain{suffix}"
    if suffix == ".pt":
        torch.save(state, plain)
    else:
        save_file(state, plain)
    place = plain.rename(tmp_path / f"{BYTES}{suffix}")
    assert torch.equal(read_checkpoint(place)["fc.bias"], state["fc.bias"])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_stays_json(tmp_path: Path, encoding: str) -> None:
    """With bytes that are no text, and where stdout takes ASCII alone."""
    done = subprocess.run(
        [TIMMX, "inspect", f"{BYTES} ü.pocket", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "TIMMX_HOME": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 9
    error = json.loads(done.stdout.decode(encoding))["error"]
    assert error["message"] == f"{BYTES} ü.pocket does not exist"
