"""Names, texts and files of a stranger's: refused in a line, or shown as what they are."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket_format import PocketBackend

from timmx_core import api
from timmx_core.cli.program import run
from timmx_core.cli.terminal import harmless, harmless_text
from timmx_core.errors import ArtifactError, ModelError, RequestError, TimmxError
from timmx_core.files import manifest as manifests
from timmx_core.files.output_path import default_name, target_of
from timmx_core.files.publishing import record_path
from timmx_core.isolation.requirement import read_wanted
from timmx_core.lifecycle.calibration import Calibration
from timmx_core.models.checks import check_name, parse_kwargs
from timmx_core.models.labels import read_labels
from timmx_core.models.preprocessing import Preprocessing
from timmx_core.models.weights.checkpoints import read_checkpoint, read_torch
from timmx_core.plugins.manager import use_manager
from timmx_core.reading import strict_json
from timmx_core.reading.regular import open_regular, read_regular
from timmx_core.results import ExportResult
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_core.toolkit.content import ContentDigest
from timmx_core.verification import probes

COMMAND = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x00 \u202egnp.exe"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return api.export(
        "pocket",
        tiny_cnn(),
        input_size=INPUT_SIZE,
        output=tmp_path_factory.mktemp("hostile") / "model.pocket",
        manager=manager_of(PocketBackend()),
    )


@pytest.fixture
def path(exported: ExportResult, tmp_path: Path) -> Path:
    """A copy of a good file, without a record."""
    assert exported.path is not None
    copy = tmp_path / "folder" / "model.pocket"
    copy.parent.mkdir()
    copy.write_bytes(exported.path.read_bytes())
    return copy


def inspect(path: Path) -> Any:
    return api.inspect(path, manager=manager_of(PocketBackend()))


# ------------------------------------------------------------------------ what goes to a terminal


def test_what_commands_a_terminal_is_spelt_out() -> None:
    shown = harmless(f"\x1b[1;31mred\x1b[0m {COMMAND}\ttab\nline")
    assert shown.startswith("red \\x1b]0;title\\x07\\x1b[2J\\x9b31m\\x0d\\x00 \\u202egnp")
    assert shown.endswith("\\ttab\\nline")
    assert harmless_text("\x1b[1mtab\tand\nline\x07") == "tab\tand\nline\\x07"


@pytest.mark.parametrize("words", [[], ["--json"], ["--snippet", "python"]])
def test_a_file_commands_no_terminal(
    exported: ExportResult, path: Path, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Names, labels, notes and versions of a stranger's file, in the record beside it."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["model"]["name"] = COMMAND
        manifest["model"]["weights"]["source"] = COMMAND
        manifest["versions"] = {COMMAND: COMMAND}
        manifest["notes"] = [COMMAND]
        manifest["precision"]["weights"] = COMMAND
        manifest["options"] = {COMMAND: COMMAND}

    written(exported, path, change, {f"{COMMAND[:-9]}".replace("\0", ""): "0" * 64})
    with use_manager(manager_of(NothingEmbedded())):
        code = run(["inspect", str(path), *words])
        verified = run(["verify", str(path)])
    out, err = capfd.readouterr()
    assert code == 0
    assert verified in (7, 9)
    for text in (out, err):
        assert not {c for c in text if not c.isprintable()} - {"\n", "\t"}
    if words == ["--json"]:
        assert json.loads(out.partition("\n}\n")[0] + "}")["manifest"]["notes"] == [COMMAND]


class NothingEmbedded(PocketBackend):
    """Reads nothing from files, so that the record counts."""

    def read(self, path: Path) -> bytes | None:
        return None


def written(
    exported: ExportResult,
    path: Path,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    members: Mapping[str, str] | None = None,
) -> None:
    """A record beside `path`, with a changed manifest that states its digest rightly."""
    record = json.loads(json.dumps(dict(exported.record)))
    change(record["manifest"])
    record["manifest"]["sha256"] = manifests.digest(record["manifest"])
    if members is not None:
        record["members"] = dict(members)
    record_path(path).write_text(json.dumps(record))


def test_a_file_adds_no_rows(exported: ExportResult, path: Path) -> None:
    """No text of a stranger's looks like what timmx found out: each of them stays one line."""
    forged = (
        "fine\nverdict  verified\n         SNR 130.0 dB\tverified\r\n\x85\u2028verdict  verified"
    )

    def change(manifest: dict[str, Any]) -> None:
        manifest["model"]["name"] = forged
        manifest["versions"] = {forged: forged}
        manifest["notes"] = [forged, forged]
        manifest["precision"] |= {"name": forged, "weights": forged, "activations": forged}
        manifest["labels"] = [forged]

    written(exported, path, change)
    written(exported, path.with_name("honest.pocket"))
    timmx = Path(sys.executable).with_name("timmx")

    def rows(name: str, word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [timmx, word, path.with_name(name)],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "80"},
        )

    path.with_name("honest.pocket").write_bytes(path.read_bytes())
    shown, honest = rows(path.name, "inspect").stdout, rows("honest.pocket", "inspect").stdout
    assert shown.count("\nverdict") == honest.count("\nverdict") == 1
    assert shown.count("\n") == honest.count("\n") + 3  # two notes, and labels
    assert "fine\\nverdict  verified\\n" in shown
    verified = rows(path.name, "verify")
    for line in (shown + verified.stdout + verified.stderr).splitlines():
        assert not line.startswith("         SNR 130"), line
    assert "\nverdict" not in verified.stdout + verified.stderr


def test_messages_command_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", f"nothing{COMMAND}".replace("\0", "")]) == 9
    out, err = capfd.readouterr()
    assert "\\x1b" in err
    assert not {c for c in out + err if not c.isprintable()} - {"\n"}


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "local-dir:/a/..",
        "local-dir:..",
        "hf-hub:a/..",
        "/",
        "",
        ".",
        "\0",
        "a\n",
    ],
)
def test_no_name_of_a_model_leads_out_of_the_folder(name: str) -> None:
    result = default_name(name)
    assert Path(result).name == result
    assert result not in ("", ".", "..")
    assert not result.startswith((".", "-"))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "hf-hub:../../x",
        "hf-hub:a/..",
        "hf-hub:a/b\n",
        "hf-hub:a/b/c",
        "evil:x",
        COMMAND,
        "x" * 100_000,
        "\0",
        "\ud800",
    ],
)
def test_no_strange_name_is_a_model(name: str) -> None:
    with pytest.raises(ModelError):
        check_name(name)


@pytest.mark.parametrize("output", ["x" * 300 + ".pocket", "y" * 245 + ".pocket", "a\0b.pocket"])
def test_a_name_that_no_file_can_have_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """The record's name is longer than the file's."""
    from timmx_core.errors import OutputError
    from timmx_core.request import options

    monkeypatch.chdir(tmp_path)
    backend = PocketBackend()
    with pytest.raises(OutputError):
        target_of(backend, options.make_request(backend, "resnet18", {"output": output}))


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch trace')",
        "open('trace', 'w')",
        "(lambda: 1)()",
        "{[]: 1}",
        "[" * 1000,
        "(" * 100_000,
        "9" * 5000,
        "9**9**9**9",
        "'\\ud800'",
        "\0",
        "f'{1}'",
        "--" * 50_000 + "1",
    ],
    ids=lambda v: v[:20].replace("\0", "NUL"),
)
def test_a_model_kwarg_is_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_kwargs((f"key={value}",))["key"] in (value, "\ud800")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- local-dir:

CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 10,
    "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3},
}


def folder_of(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1]",
        "{}",
        '{"architecture": 5}',
        '{"architecture": "../../evil"}',
        '{"architecture": "hf-hub:a/b"}',
        '{"architecture": "local-dir:."}',
        '{"architecture": "resnet18", "model_args": "x"}',
        '{"architecture": "resnet18", "pretrained_cfg": [1]}',
        '{"architecture": "resnet18", "num_classes": NaN}',
        '{"architecture": "resnet18", "architecture": "resnet34"}',
        "[" * 100_000,
    ],
    ids=lambda t: t[:50],
)
def test_a_hostile_configuration_is_refused_before_torch_loads(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_name(folder_of(tmp_path / "model", text))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"mean": "abc"},
        {"mean": [[1]]},
        {"std": [0, 0, 0]},
        {"input_size": [3, -1, 4]},
        {"input_size": [3, 10**9, 10**9]},
        {"input_size": "a"},
        {"interpolation": COMMAND},
        {"crop_pct": -1},
        {"crop_mode": "evil"},
    ],
    ids=str,
)
def test_a_configuration_without_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    config = CONFIG | {"pretrained_cfg": {**CONFIG["pretrained_cfg"], **change}}  # type: ignore[dict-item]
    with pytest.raises((ModelError, RequestError)):
        api.load_model(folder_of(tmp_path / "model", json.dumps(config)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"act_layer": "__import__('os').mkdir('trace')"},
        {"checkpoint_path": "evil.pth"},
        {"block": "os.system"},
    ],
    ids=str,
)
def test_arguments_in_a_configuration_are_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Evil(tmp_path / "trace")}, tmp_path / "evil.pth")
    name = folder_of(tmp_path / "model", json.dumps(CONFIG | {"model_args": arguments}))
    with pytest.raises((ModelError, RequestError)):
        api.load_model(name)
    assert not (tmp_path / "trace").exists()


def test_pickled_weights_in_a_folder_do_not_run(tmp_path: Path) -> None:
    name = folder_of(tmp_path / "model", json.dumps(CONFIG))
    torch.save({"x": Evil(tmp_path / "trace")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError):
        api.load_model(name, pretrained=True)
    assert not (tmp_path / "trace").exists()


# -------------------------------------------------------------------- checkpoints, arrays, labels


def calibration_of(path: Path) -> Calibration:
    shared = {
        "random_calibration": False,
        "calibration_data": str(path),
        "calibration_samples": 8,
        "calibration_preprocessed": True,
    }
    built = type("Built", (), {"preprocessing": Preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3)})
    return Calibration.of(shared, built())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_pickled_calibration_data_do_not_run(tmp_path: Path, suffix: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"data{suffix}"
    objects = np.array([Evil(trace)], dtype=object)
    if suffix == ".npy":
        np.save(path, objects)
    elif suffix == ".npz":
        np.savez(path, images=objects)
    else:
        torch.save(Evil(trace), path)
    with pytest.raises(ModelError, match="run code") as caught:
        calibration_of(path)
    assert caught.value.exit_code == 5
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04."])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_broken_calibration_data_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises((ModelError, RequestError)):
        calibration_of(path)


def test_no_more_of_an_array_is_read_than_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file of 400 GB; what is read as a whole is bounded."""
    path = tmp_path / "endless.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (500_000_000, 3, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(500_000_000 * 3 * 8 * 8 * 4 - 1, os.SEEK_CUR)
        file.write(b"\0")
    found = calibration_of(path)
    assert found.floats is not None
    assert found.floats.shape == (8, 3, 8, 8)
    monkeypatch.setattr("timmx_core.lifecycle.calibration.MOST_BYTES", 1000)
    array = np.ones((8, 3, 8, 8), np.float32)
    np.savez(tmp_path / "whole.npz", array)
    torch.save(torch.from_numpy(array), tmp_path / "whole.pt")
    for name in ("whole.npz", "whole.pt"):
        with pytest.raises(RequestError, match="GiB"):
            calibration_of(tmp_path / name)


def test_a_checkpoint_of_numpy_s_is_refused_by_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And so is a legacy pickle: exit code 5, and nothing runs."""
    trace = tmp_path / "trace"
    np.savez(tmp_path / "evil.npz", weights=np.array([Evil(trace)], dtype=object))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil(trace)}))
    with use_manager(manager_of(PocketBackend())):
        for name in ("evil.npz", "evil.pth"):
            words = ["pocket", "test_resnet", "--checkpoint", str(tmp_path / name)]
            assert run([*words, "-o", str(tmp_path / "out.pocket")]) == 5
    assert not trace.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.npz", "evil.pth"]


@pytest.mark.parametrize(
    "text", [COMMAND, "a\n\nb", "", "\ud800".encode("utf-8", "surrogatepass"), "x" * 2000, b"\xff"]
)
def test_labels_are_plain_names(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RequestError) as caught:
        read_labels(str(path))
    assert "\n" not in caught.value.message


def test_endless_labels_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(RequestError, match="no file"):
            read_labels(str(path))


# -------------------------------------------------------------------------- manifests and records


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "beyond all bounds"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b"[" * 40 + b"]" * 40, "deeply"),
        (b"[" * 100_000, "deeply"),
        (b'{"a":' * 100_000, "deeply"),
        (b"[" + b"1," * 3_000_000 + b"1]", "values"),
        (b'{"a": ' + b"1" * 401 + b"}", "digits"),
        (b"\xff\xfe{}", "utf-8"),
        (b"{}{}", "Extra data"),
    ],
    ids=lambda v: repr(v[:20]),
)
def test_json_has_one_meaning_and_a_size(data: bytes, why: str) -> None:
    with pytest.raises(strict_json.BadJson, match=why):
        strict_json.loads(data)


def test_json_as_it_should_be() -> None:
    data = {"a": [1, -2.5, None, True, "\u00e9\U0001f600"], "b": {"c": []}}
    for ascii_only in (True, False):
        assert strict_json.loads(json.dumps(data, ensure_ascii=ascii_only).encode()) == data


def test_the_largest_json_that_is_parsed_takes_little_memory() -> None:
    """In another process, since memory that was taken once stays with this one."""
    script = (
        "import resource\n"
        "from timmx_core.reading import strict_json\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = b'[' + b'[],' * (strict_json.MOST_PARTS // 2 - 2) + b'[]]'\n"
        "strict_json.loads(data)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 400 << 20


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/../../outside",
        "a/../model.pocket",
        "./model.pocket",
        "model.pocket/",
        ".//model.pocket",
        "",
        "a\0b",
        "x" * 300,
        "link",
        "circle",
    ],
    ids=lambda n: n[:20].replace("\0", "NUL"),
)
def test_a_record_names_files_of_its_folder_and_each_once(
    exported: ExportResult, path: Path, name: str
) -> None:
    (path.parent.parent / "outside").write_text("secret")
    (path.parent / "link").symlink_to("../outside")
    (path.parent / "circle").symlink_to("circle")
    written(exported, path, members={name: "0" * 64})
    try:
        assert inspect(path).intact is False
    except ArtifactError as error:
        assert "outside its folder" in error.message  # noqa: PT017 (both are right)


@pytest.mark.parametrize("original", ["there", "gone"])
def test_a_copy_under_another_name_is_compared_itself(
    exported: ExportResult, path: Path, original: str
) -> None:
    """And not the original of its record, which may lie beside it."""
    written(exported, path)
    copy = path.with_name("copy.pocket")
    shutil.copyfile(path, copy)
    shutil.copyfile(record_path(path), record_path(copy))
    if original == "gone":
        path.unlink()
    assert inspect(copy).intact is True
    with copy.open("r+b") as file:
        file.write(b"PK\x03\x04\x15")  # of the zip's first header, which nobody reads
    assert inspect(copy).problems == ("copy.pocket is not the file that was exported",)
    shutil.copyfile(copy, path.with_name("stranger.bin"))
    shutil.copyfile(record_path(copy), record_path(path.with_name("stranger.bin")))
    assert inspect(path.with_name("stranger.bin")).intact is False


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "broken link"])
def test_a_record_that_is_no_file_is_not_read(path: Path, kind: str) -> None:
    record = record_path(path)
    if kind == "pipe":
        os.mkfifo(record)
    elif kind == "folder":
        record.mkdir()
    else:
        record.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(ArtifactError, match="is no file"):
        inspect(path)


def test_a_device_is_no_artifact(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pocket")
    for path in (Path("/dev/zero"), tmp_path / "pipe.pocket"):
        for call in (api.inspect, api.verify):
            with pytest.raises(ArtifactError, match="neither a file nor a folder"):
                call(path, manager=manager_of(PocketBackend()))


def test_a_reader_that_stumbles_is_an_error_of_the_file(path: Path) -> None:
    class Stumbling(PocketBackend):
        def read(self, path: Path) -> bytes | None:
            raise AssertionError("a library's own check")

    for call in (api.inspect, api.verify):
        with pytest.raises(ArtifactError, match="cannot be read as pocket"):
            call(path, manager=manager_of(Stumbling()))


def test_a_reference_of_no_values_verifies_nothing(exported: ExportResult, path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for reference in manifest["reference"]:
            reference.update(positions="", values="")

    written(exported, path, change)
    verdict = api.verify(path, manager=manager_of(NothingEmbedded()), timeout=120)
    assert verdict.status in ("failed", "inconclusive")


def test_probes_beyond_measure_are_not_made(exported: ExportResult, path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for part in (manifest["probes"], manifest["preprocessing"]):
            part.update(height=65536, width=65536)
        manifest["inputs"][0]["shape"] = [1, 3, 65536, 65536]

    written(exported, path, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="more probes than are reasonable"):
        api.verify(path, manager=manager_of(NothingEmbedded()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert probes.MOST_VALUES < 8 * 65536 * 65536 * 3


def test_no_one_plants_a_folder_that_undoes_something(tmp_path: Path) -> None:
    """A link, or a journal with other names than files of the folder, is left alone."""
    from timmx_core.files.staging import PREFIX, Staging

    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    work = tmp_path / "work"
    work.mkdir()
    (work / f"{PREFIX}1-01234567").symlink_to(victim)
    planted = work / f"{PREFIX}2-01234567"
    (planted / "replaced").mkdir(parents=True)
    (planted / "lock").touch()
    status = (victim / "precious").lstat()
    step = {
        "name": "../victim/precious",
        "source": "x",
        "identity": [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns],
    }
    (planted / "replaced" / "journal.json").write_text(json.dumps([step, step]))
    with Staging(work):
        pass
    assert sorted(p.name for p in victim.iterdir()) == ["precious"]
    assert not planted.exists()


def test_errors_are_of_one_kind() -> None:
    """Whatever is refused here is a TimmxError, which the command tells in a line."""
    assert issubclass(ArtifactError, TimmxError)


# ------------------------------------------------------------------ pipes where a file should be


def calibrate(path: Path) -> object:
    return calibration_of(path).floats


def read_folder(path: Path) -> object:
    config = path.with_name("config.json")
    if path != config:
        config.write_text('{"architecture": "resnet18"}')
    check_name(f"local-dir:{path.parent}")
    return None


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "labels": ("labels.txt", lambda path: read_labels(str(path))),
    "checkpoint": ("weights.pth", read_checkpoint),
    "pickle": ("weights.pth", read_torch),
    "array": ("array.npy", calibrate),
    "tensor": ("array.pt", calibrate),
    "images": ("x.png", lambda path: probes.read_images(path.parent, 8, 8, 3)),
    "images, checked": ("x.png", lambda path: probes.check_images(path.parent)),
    "configuration": ("config.json", read_folder),
    "weights in a folder": ("model.safetensors", read_folder),
    "source tree": ("pyproject.toml", lambda path: read_wanted(str(path.parent))),
    "digest": ("weights.bin", lambda path: ContentDigest().add_file("weights", path)),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    """Whoever reads what somebody else may have put there gives an error at once."""
    name, read = READERS[kind]
    path = tmp_path / name
    os.mkfifo(path)
    outcome: list[object] = []

    def call() -> None:
        try:
            outcome.append(read(path))
        except Exception as error:  # noqa: BLE001 (all of them are looked at below)
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    if thread.is_alive():
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # or it would wait for ever
        thread.join()
        pytest.fail("it waits for what comes out of the pipe")
    (error,) = outcome
    assert isinstance(error, TimmxError), error


def test_a_regular_file_is_opened_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 3) == b"123"
    assert read_regular(tmp_path / "file") == b"12345"
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "none", FileNotFoundError),
        (Path(os.devnull), OSError),
    ):
        with pytest.raises(error):
            open_regular(path)
