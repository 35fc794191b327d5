"""No file of anybody else's is ever deleted, moved or overwritten, whatever a record claims."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocket_format import PocketBackend

import timmx_core
from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel
from timmx_core.errors import OutputError
from timmx_core.files import ownership, publishing
from timmx_core.files.file_transaction import ASIDE, JOURNAL, Moves, put
from timmx_core.files.output_path import target_of
from timmx_core.files.ownership import Naming, companions_of
from timmx_core.files.publishing import publish
from timmx_core.files.records import RECORD_SUFFIX, record_path
from timmx_core.isolation import run_all as together
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn

NAMING = Naming((".bin",), (".data",))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A record as an export writes it."""
    path = tmp_path_factory.mktemp("template") / "model.pocket"
    export(path, PocketBackend())
    record: dict[str, Any] = json.loads(record_path(path).read_bytes())
    return record


def export(path: Path, backend: PocketBackend, **options: Any) -> None:
    manager = manager_of(backend)
    timmx_core.export(
        backend.name,
        tiny_cnn(),
        input_size=INPUT_SIZE,
        output=str(path),
        verify=False,
        manager=manager,
        **options,
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_record(template: dict[str, Any], path: Path, members: dict[str, str]) -> None:
    record_path(path).write_text(json.dumps(template | {"members": members}))


def install(template: dict[str, Any], target: Path, *, run: str, overwrite: bool) -> None:
    """Publish an artifact of a primary, `<stem>.bin`, and one with its digest in its name."""
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        staged = Path(folder)
        data = f"data {run}".encode()
        names = {
            target.name: f"primary {run}".encode(),
            target.stem + ".bin": f"bin {run}".encode(),
            f"{target.stem}-{sha256(data)[:8]}.data": data,
        }
        for name, content in names.items():
            (staged / name).write_bytes(content)
        record = staged / "record.json"
        members = {name: sha256(content) for name, content in names.items()}
        record.write_text(json.dumps(template | {"members": members}))
        primary, *companions = (staged / name for name in names)
        publish(primary, tuple(companions), record, target, naming=NAMING, overwrite=overwrite)


def state(folder: Path) -> dict[str, bytes | str]:
    """Every entry of a folder, with what it holds or leads to."""
    return {
        path.name: str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.iterdir())
    }


# ---------------------------------------------------------------- folders at random

DATA = f"a-{sha256(b'data 1')[:8]}.data"  # of the first export

NAMES = ("a.x", "b.x", "a.y", "a.bin", "b.bin", DATA)
STEP = st.one_of(
    st.tuples(st.just("install"), st.sampled_from(["a.x", "b.x", "a.y"]), st.booleans()),
    st.tuples(st.just("copy"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("copy record"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("drop record"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("symlink"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("hard link"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("own file"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("change"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("claim"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
)


class World:
    """A folder in which a user and exports do things; it knows whose each file is."""

    def __init__(self, template: dict[str, Any], folder: Path) -> None:
        self.template = template
        self.folder = folder
        self.run = 0

    def do(self, step: tuple[Any, ...]) -> None:
        kind, first, second = step
        source, other = self.folder / first, self.folder / str(second or first)
        with suppress(OSError, shutil.SameFileError):
            if kind == "copy" and source.is_file():
                shutil.copyfile(source, other)
            elif kind == "rename" and os.path.lexists(source):
                source.rename(other)
            elif kind == "copy record":
                shutil.copyfile(record_path(source), record_path(other))
            elif kind == "drop record":
                record_path(source).unlink()
            elif kind == "symlink":
                other.symlink_to(first)
            elif kind == "hard link":
                os.link(source, other)
            elif kind == "own file":
                source.write_text(f"the user's own {first}")
            elif kind == "change":
                source.write_bytes(source.read_bytes() + b", changed")
            elif kind == "claim":
                self.claim(source, other)

    def claim(self, path: Path, claimed: Path) -> None:
        """A stranger's record: it says that a file which is not its own belongs to it."""
        members = {p.name: sha256(p.read_bytes()) for p in (path, claimed) if p.is_file()}
        if path.name in members and not record_path(path).exists():
            write_record(self.template, path, members)

    def install(self, target: Path, *, overwrite: bool) -> None:
        """Publish, and see that nothing but its own has changed, whether it is refused or not."""
        self.run += 1
        before = state(self.folder)
        allowed = self.own(target)
        try:
            install(self.template, target, run=str(self.run), overwrite=overwrite)
        except OutputError:
            assert state(self.folder) == before
            return
        after = state(self.folder)
        assert after[target.name] == f"primary {self.run}".encode()
        for name, content in before.items():
            if name not in allowed:
                assert after.get(name) == content, name

    def own(self, target: Path) -> set[str]:
        """What may change: the target that was asked for, its record, and its true companions.

        A true companion has a name by the rule, the bytes that this target's last export gave it,
        and no other record that lists it.
        """
        names = {target.name, record_path(target).name}
        others = set()
        for path in self.folder.glob("*" + RECORD_SUFFIX):
            if path != record_path(target):
                others |= set(json.loads(path.read_bytes())["members"])
        if not record_path(target).is_file():
            return names
        members = json.loads(record_path(target).read_bytes())["members"]
        if not any(name.endswith(target.suffix) for name in members):
            return names
        for path in self.folder.iterdir():
            ruled = path.name == target.stem + ".bin" or (
                path.name.startswith(target.stem + "-") and path.suffix == ".data"
            )
            own = ruled and path.is_file() and not path.is_symlink() and path.name not in others
            if own and members.get(path.name) == sha256(path.read_bytes()):
                names.add(path.name)
        return names


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=6))
def test_only_its_own_files_change(template: dict[str, Any], steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "models"
        folder.mkdir()
        world = World(template, folder)
        world.install(folder / "a.x", overwrite=False)
        for step in steps:
            if step[0] == "install":
                world.install(folder / step[1], overwrite=bool(step[2]))
            else:
                world.do(step)
        world.install(folder / "a.x", overwrite=True)


# ---------------------------------------------------------------- one by one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "models"
    place.mkdir()
    return place


def test_a_replaced_file_takes_its_own_companions_with_it(
    template: dict[str, Any], folder: Path
) -> None:
    target = folder / "a.x"
    install(template, target, run="1", overwrite=False)
    (folder / "a.data").write_text("the user's")
    install(template, target, run="2", overwrite=True)
    data = f"a-{sha256(b'data 2')[:8]}.data"
    assert set(state(folder)) == {"a.x", "a.bin", data, "a.x.timmx.json", "a.data"}
    assert {path.name for path in companions_of(target, NAMING)} == {"a.bin", data}


def test_a_record_that_was_copied_gives_no_ownership(
    template: dict[str, Any], folder: Path
) -> None:
    """cp a.x prod.x; cp a.x.timmx.json prod.x.timmx.json; export -o prod.x --overwrite."""
    install(template, folder / "a.x", run="1", overwrite=False)
    shutil.copyfile(folder / "a.x", folder / "prod.x")
    shutil.copyfile(folder / "a.x.timmx.json", folder / "prod.x.timmx.json")
    before = state(folder)
    install(template, folder / "prod.x", run="2", overwrite=True)
    after = state(folder)
    kept = {name for name in before if not name.startswith("prod.")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.parametrize("digest", ["right", "wrong"])
def test_what_a_stranger_s_record_lists_stays(
    template: dict[str, Any], folder: Path, digest: str
) -> None:
    (folder / "thesis.txt").write_text("years")
    (folder / "a.x").write_text("primary")
    told = sha256(b"years") if digest == "right" else "0" * 64
    write_record(template, folder / "a.x", {"a.x": sha256(b"primary"), "thesis.txt": told})
    install(template, folder / "a.x", run="1", overwrite=True)
    assert (folder / "thesis.txt").read_text() == "years"


def test_a_companion_that_another_file_needs_is_not_replaced(
    template: dict[str, Any], folder: Path
) -> None:
    """Two formats that both write `<stem>.bin`: the second is refused, --overwrite or not."""
    install(template, folder / "a.x", run="1", overwrite=False)
    before = state(folder)
    with pytest.raises(OutputError, match="exists already"):
        install(template, folder / "a.y", run="2", overwrite=False)
    with pytest.raises(OutputError, match=r"a\.bin does not belong to a\.y: a\.x needs it"):
        install(template, folder / "a.y", run="2", overwrite=True)
    assert state(folder) == before


@pytest.mark.parametrize("what", ["changed", "linked", "listed elsewhere"])
def test_a_companion_that_is_not_certainly_its_own_any_more_stays(
    template: dict[str, Any], folder: Path, what: str
) -> None:
    install(template, folder / "a.x", run="1", overwrite=False)
    companion = folder / "a.bin"
    if what == "changed":
        companion.write_text("changed by its user")
    elif what == "linked":
        companion.rename(folder / "store")
        companion.symlink_to("store")
    else:
        shutil.copyfile(folder / "a.x", folder / "b.x")
        shutil.copyfile(record_path(folder / "a.x"), record_path(folder / "b.x"))
    before = state(folder)
    with pytest.raises(OutputError, match=r"a\.bin does not belong to a\.x"):
        install(template, folder / "a.x", run="2", overwrite=True)
    assert state(folder) == before


def install_naming_data(template: dict[str, Any], target: Path) -> None:
    """The first export, of which the primary names its companion."""
    install(template, target, run="1", overwrite=False)
    target.write_bytes(b"weights are in " + DATA.encode())
    record = json.loads(record_path(target).read_bytes())
    record["members"]["a.x"] = sha256(target.read_bytes())
    record_path(target).write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["a.x.bak", "a", "backup.x"])
def test_weights_that_a_backup_needs_stay(
    template: dict[str, Any], folder: Path, name: str
) -> None:
    """cp a.x a.x.bak; export -o a.x --overwrite."""
    install_naming_data(template, folder / "a.x")
    shutil.copyfile(folder / "a.x", folder / name)
    install(template, folder / "a.x", run="2", overwrite=True)
    assert (folder / DATA).read_bytes() == b"data 1"
    (folder / name).unlink()
    with pytest.raises(OutputError, match="exists already"):
        install(template, folder / "a.x", run="3", overwrite=False)
    install(template, folder / "a.x", run="3", overwrite=True)
    assert f"a-{sha256(b'data 2')[:8]}.data" not in state(folder)


@pytest.mark.parametrize("what", ["unreadable", "too large", "too many"])
def test_weights_stay_where_not_every_file_can_be_searched(
    template: dict[str, Any], folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_naming_data(template, folder / "a.x")
    if what == "unreadable":
        (folder / "x.x").symlink_to("/proc/self/mem")
        if not (folder / "x.x").is_file():
            pytest.skip("no file here that is sure to be unreadable")
    else:
        (folder / "notes.txt").write_bytes(bytes(5000))
        name = "MOST_SEARCHED" if what == "too large" else "MOST_NEIGHBOURS"
        monkeypatch.setattr(ownership, name, 0)
    install(template, folder / "a.x", run="2", overwrite=True)
    assert (folder / "a.x").read_bytes() == b"primary 2"
    assert (folder / DATA).read_bytes() == b"data 1"
    if what == "unreadable":
        (folder / "x.x").unlink()


def test_a_companion_that_is_there_already_is_used(
    template: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a deleted file left behind is in nobody's way, and is not written again."""
    target = folder / "a.x"
    install(template, target, run="1", overwrite=False)
    for path in (target, record_path(target), folder / "a.bin"):
        path.unlink()
    before, left = state(folder), (folder / DATA).stat()

    def refuse(source: Path, place: Path, *, overwrite: bool) -> None:
        if place == target:
            raise PermissionError(13, "Permission denied", str(place))
        put(source, place, overwrite=overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "put", refuse)
        with pytest.raises(OutputError, match="no permission"):
            install(template, target, run="1", overwrite=False)
    assert state(folder) == before
    install(template, target, run="1", overwrite=False)
    assert ((folder / DATA).stat().st_ino, (folder / DATA).stat().st_mtime_ns) == (
        left.st_ino,
        left.st_mtime_ns,
    )
    assert {path.name for path in companions_of(target, NAMING)} == {"a.bin", DATA}


@pytest.mark.parametrize("how", ["moved away", "copied", "another in its place"])
def test_weights_that_a_copy_needs_stay(template: dict[str, Any], folder: Path, how: str) -> None:
    """A copy without a record needs the companion all the same, and names it within."""
    target, data = folder / "a.x", folder / DATA
    install_naming_data(template, target)
    if how == "moved away":
        target.rename(folder / "old.x")
        (folder / "a.bin").unlink()
    elif how == "copied":
        shutil.copyfile(target, folder / "prod.x")
    else:
        (folder / "stranger.x").write_text("a stranger")
        target.rename(folder / "elsewhere")
        (folder / "stranger.x").rename(target)
    install(template, target, run="2", overwrite=how != "moved away")
    assert data.read_bytes() == b"data 1"


def test_a_damaged_file_is_repaired_by_its_export(template: dict[str, Any], folder: Path) -> None:
    install(template, folder / "a.x", run="1", overwrite=False)
    (folder / "a.x").write_text("damaged")
    install(template, folder / "a.x", run="1", overwrite=True)
    assert (folder / "a.x").read_text() == "primary 1"


def test_a_user_s_own_file_in_a_companion_s_place_is_not_replaced(
    template: dict[str, Any], folder: Path
) -> None:
    (folder / "a.bin").write_text("the weights of something else")
    with pytest.raises(OutputError, match=r"a\.bin does not belong to a\.x"):
        install(template, folder / "a.x", run="1", overwrite=True)
    assert set(state(folder)) == {"a.bin"}


def test_a_user_s_own_file_in_the_record_s_place_asks_for_leave(
    template: dict[str, Any], folder: Path
) -> None:
    record_path(folder / "a.x").write_text("no record")
    with pytest.raises(OutputError, match="exists already"):
        install(template, folder / "a.x", run="1", overwrite=False)
    install(template, folder / "a.x", run="1", overwrite=True)
    # A record whose file has gone is in nobody's way.
    (folder / "a.x").rename(folder / "c.x")
    (folder / "a.bin").unlink()
    next(folder.glob("a-*.data")).unlink()
    install(template, folder / "a.x", run="2", overwrite=False)


# ---------------------------------------------------------------- formats


class WithBin(PocketBackend):
    """A format with a companion, which another format calls the same."""

    companion_suffixes = (".bin",)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        companion = context.primary.with_suffix(".bin")
        companion.write_text(f"of {self.name}")
        artifact.companions = (companion,)
        return artifact


class AlsoWithBin(WithBin):
    name = "pouch"
    suffixes = (".pouch",)


def test_two_formats_share_a_companion_s_name(folder: Path) -> None:
    """As OpenVINO and ncnn do. It is refused before anything is built."""
    export(folder / "m.pocket", WithBin())
    before = state(folder)
    with pytest.raises(OutputError, match="exists already"):
        export(folder / "m.pouch", AlsoWithBin())
    with pytest.raises(OutputError, match=r"m\.bin does not belong to m\.pouch: m\.pocket needs"):
        target_of(
            AlsoWithBin(),
            timmx_core.request.options.make_request(
                AlsoWithBin(), "resnet18", {"output": str(folder / "m.pouch"), "overwrite": True}
            ),
        )
    assert state(folder) == before
    export(folder / "m.pocket", WithBin(), overwrite=True)
    assert set(state(folder)) == set(before)


def test_files_of_one_run_have_names_of_their_own() -> None:
    names = together._file_names(
        "local-dir:some/net", {b.name: b for b in (WithBin(), AlsoWithBin())}
    )
    assert names == {"pocket": "net.pocket.pocket", "pouch": "net.pouch.pouch"}


# ---------------------------------------------------------------- folders


def test_a_folder_with_a_file_that_its_record_does_not_know_is_not_replaced(
    template: dict[str, Any], folder: Path
) -> None:
    package = folder / "a.x"
    package.mkdir()
    (package / "weights").write_text("1")
    write_record(template, package, {"a.x/weights": sha256(b"1")})
    new = folder / "new.x"
    new.mkdir()
    (new / "weights").write_text("2")
    record = folder / "record.json"
    shutil.copyfile(record_path(package), record)
    for name in ("notes.txt", "link"):
        foreign = package / name
        foreign.symlink_to("weights") if name == "link" else foreign.write_text("mine")
        with pytest.raises(OutputError, match=name):
            publish(new, (), record, package, naming=NAMING, overwrite=True)
        foreign.unlink()
    (package / "weights").write_text("changed by its user")
    with pytest.raises(OutputError, match="weights"):
        publish(new, (), record, package, naming=NAMING, overwrite=True)
    (package / "weights").write_text("1")
    publish(new, (), record, package, naming=NAMING, overwrite=True)
    assert (package / "weights").read_text() == "2"


# ---------------------------------------------------------------- the journal


@pytest.fixture
def interrupted(folder: Path) -> Path:
    """A run that was killed when its companion was in place and its primary was not."""
    staging = folder / ".timmx-staging-1-01234567"
    staging.mkdir()
    for name in ("a.bin", "record.json", "a.x"):
        (staging / name).write_text(f"new {name}")
    moves = Moves(
        [
            (staging / "a.bin", folder / "a.bin"),
            (staging / "record.json", folder / "a.x.timmx.json"),
            (staging / "a.x", folder / "a.x"),
        ]
    )
    moves.prepare()
    put(staging / "a.bin", folder / "a.bin", overwrite=False)
    return staging


def test_what_a_killed_run_put_in_place_is_taken_back(interrupted: Path, folder: Path) -> None:
    Moves.take_back(interrupted)
    assert [path.name for path in folder.iterdir()] == [interrupted.name]


def test_a_file_that_got_a_freed_inode_is_not_taken_for_it(interrupted: Path, folder: Path) -> None:
    """ext4 gives a freed inode to the next file at once."""
    place = folder / "a.bin"
    inode = place.stat().st_ino
    place.unlink()
    place.write_text("the user's")
    journal = interrupted / ASIDE / JOURNAL
    steps = json.loads(journal.read_text())
    assert steps[0]["identity"][1] == inode
    steps[0]["identity"][1] = place.stat().st_ino  # as if it were the freed one, if it is not
    journal.write_text(json.dumps(steps))
    Moves.take_back(interrupted)
    assert place.read_text() == "the user's"
