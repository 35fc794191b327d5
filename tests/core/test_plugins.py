"""Each plugin is loaded and called alone; what is wrong with one is told, and harms no other."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_dists import fake_dist, format_source

from timmx_core.backend import Artifact, Backend, Option, Precision, Runner
from timmx_core.cli.root import COMMANDS
from timmx_core.errors import ModelError, PluginError
from timmx_core.hookspecs import hookimpl
from timmx_core.plugins.checks import RESERVED_WORDS, InvalidBackendError, check_backend
from timmx_core.plugins.manager import PluginManager, PluginRow, get_manager, use_manager


class Plain(Backend):
    """A format that is right in every respect; tests spoil one at a time."""

    name = "plain"
    help = "A plain format."
    suffixes = (".plain",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)

    def export(self, model: Any, request: Any, context: Any) -> Artifact:
        raise NotImplementedError

    def open(self, path: Any, options: Any) -> Runner:
        raise NotImplementedError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` for fake distributions; their modules are forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def discover() -> dict[str, PluginRow]:
    return {row.name: row for row in PluginManager.discover().rows}


def plugin(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(TIMMX_API_VERSION=1, __name__="a_plugin", **attributes)


def backends_plugin(*backends: object) -> SimpleNamespace:
    @hookimpl
    def timmx_backends() -> Any:
        return list(backends)

    return plugin(timmx_backends=timmx_backends)


def test_a_good_plugin_is_ok(site: Path) -> None:
    fake_dist(site, "timmx-alpha", "1.2", format_source("alpha"))
    row = discover()["alpha"]
    assert (row.status, row.distribution, row.version) == ("ok", "timmx-alpha", "1.2")
    assert (row.module, row.formats, row.error) == ("timmx_alpha", ("alpha",), "")
    assert row.seconds > 0
    assert PluginManager.discover().backend("alpha").suffixes == (".alpha",)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self): raise SystemExit(9)\nraise E", "E"),
        ("class E(BaseException):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("TIMMX_API_VERSION = 1", "implements no hook"),
        ("TIMMX_API_VERSION = 1\ndef timmx_backends(): return []", "not marked with @hookimpl"),
        (
            (
                "from timmx_core.hookspecs import hookimpl\nTIMMX_API_VERSION = 1\n"
                "@hookimpl\ndef timmx_backend(): return []"
            ),
            "'timmx_backend' that does not exist; did it mean timmx_backends?",
        ),
        (
            (
                "from timmx_core.hookspecs import hookimpl\nTIMMX_API_VERSION = 1\n"
                "@hookimpl\ndef timmx_model_source(name, wish): return None"
            ),
            "wish",
        ),
        (
            (
                "from timmx_core.hookspecs import hookimpl\nTIMMX_API_VERSION = 1\n"
                "@hookimpl\ndef timmx_backends(): return None"
            ),
            "its timmx_backends returned None",
        ),
        (
            (
                "from timmx_core.hookspecs import hookimpl\nTIMMX_API_VERSION = 1\n"
                "@hookimpl\ndef timmx_backends():\n    yield 5"
            ),
            "gave int and not an instance of Backend",
        ),
    ],
)
def test_a_broken_plugin_fails_alone(site: Path, source: str, said: str) -> None:
    fake_dist(site, "timmx-alpha", "1.0", format_source("alpha"))
    fake_dist(site, "timmx-broken", "0.3", source)
    rows = discover()
    assert rows["alpha"].status == "ok"
    broken = rows["broken"]
    assert broken.status == "failed"
    assert said in broken.error
    assert broken.label == "timmx-broken 0.3"
    assert "pip " in broken.remedy
    with pytest.raises(PluginError, match=r"timmx-broken 0\.3") as caught:
        PluginManager.discover().backend("broken")
    assert caught.value.exit_code == 3


def test_an_interrupt_while_loading_is_an_interrupt(site: Path) -> None:
    source = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)"
    fake_dist(site, "timmx-stuck", "1.0", source)
    with pytest.raises(KeyboardInterrupt):
        PluginManager.discover()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("", "TIMMX_API_VERSION = 1"),
        ("TIMMX_API_VERSION = 0", "pip install --upgrade timmx-other"),
        ("TIMMX_API_VERSION = 2", "pip install --upgrade timmx-core"),
    ],
)
def test_another_contract_is_incompatible(site: Path, line: str, remedy: str) -> None:
    source = format_source("other").replace("TIMMX_API_VERSION = 1", line)
    fake_dist(site, "timmx-other", "1.0", source)
    row = discover()["other"]
    assert row.status == "incompatible"
    assert remedy in row.remedy
    with pytest.raises(PluginError):
        PluginManager.discover().backend("other")


def test_clashing_formats_are_refused_and_the_rest_goes_on(site: Path) -> None:
    both = format_source("alpha").replace(
        "return [FakeBackend()]",
        "extra = FakeBackend(); extra.name = 'extra'; return [FakeBackend(), extra]",
    )
    fake_dist(site, "timmx-alpha", "1.0", both)
    fake_dist(site, "alpha-again", "2.0", format_source("alpha"), {"again": "alpha_again"})
    manager = PluginManager.discover()
    rows = {row.name: row for row in manager.rows}
    assert rows["alpha"].status == rows["again"].status == "clash"
    assert "alpha" not in manager.backends
    assert manager.backend("extra").name == "extra"
    with pytest.raises(PluginError) as caught:
        manager.backend("alpha")
    for text in (caught.value.message, rows["alpha"].error, rows["again"].error):
        assert "timmx-alpha 1.0" in text
        assert "alpha-again 2.0" in text
    assert "pip uninstall" in caught.value.hint


def test_disabled_plugins_are_not_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dist(site, "timmx-alpha", "1.0", "raise SystemExit")
    fake_dist(site, "timmx-beta", "1.0", format_source("beta"))
    fake_dist(site, "timmx-gamma", "1.0", format_source("gamma"))
    monkeypatch.setenv("TIMMX_DISABLE_PLUGINS", "alpha, timmx_beta")
    rows = discover()
    assert rows["alpha"].status == rows["beta"].status == "disabled"
    assert rows["gamma"].status == "ok"
    with pytest.raises(PluginError, match="TIMMX_DISABLE_PLUGINS"):
        PluginManager.discover().backend("beta")


@pytest.mark.parametrize("broken", ["no equals sign", "[timmx]\nnothing", "[timmx\n=", "\x00"])
def test_broken_metadata_of_others_does_no_harm(site: Path, broken: str) -> None:
    fake_dist(site, "timmx-alpha", "1.0", format_source("alpha"))
    fake_dist(site, "unrelated", "1.0", "", broken)
    assert discover()["alpha"].status == "ok"


def test_metadata_that_is_no_text_does_no_harm(site: Path) -> None:
    fake_dist(site, "timmx-alpha", "1.0", format_source("alpha"))
    fake_dist(site, "timmx-rotten", "1.0", "")
    (site / "timmx_rotten-1.0.dist-info" / "entry_points.txt").write_bytes(b"[timmx]\n\xff\xfe = 1")
    rows = discover()
    assert rows["alpha"].status == "ok"
    assert rows["timmx-rotten"].status == "failed"
    assert "metadata" in rows["timmx-rotten"].error


def test_metadata_without_name_or_version_does_no_harm(site: Path) -> None:
    fake_dist(site, "timmx-alpha", "1.0", format_source("alpha"))
    (site / "timmx_alpha-1.0.dist-info" / "METADATA").write_text("")
    assert discover()["alpha"].status == "ok"


def test_prints_of_a_plugin_stay_out_of_stdout(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From C as well."""
    source = "print('hello')\nimport os\nos.write(1, b'from C')\n" + format_source("chatty")
    fake_dist(site, "timmx-chatty", "1.0", source)
    assert discover()["chatty"].status == "ok"
    print("result", flush=True)
    assert capfd.readouterr().out == "result\n"


def test_a_thread_of_a_plugin_does_not_keep_the_command(site: Path) -> None:
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    fake_dist(site, "timmx-busy", "1.0", source + format_source("busy"))
    command = Path(sys.executable).with_name("timmx")
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [command, "plugins", "list"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0
    assert "busy" in done.stdout


def test_a_slow_plugin_shows_its_time(site: Path) -> None:
    fake_dist(site, "timmx-slow", "1.0", "import time; time.sleep(.2)\n" + format_source("slow"))
    assert discover()["slow"].seconds >= 0.2


def test_implementations_may_take_fewer_arguments() -> None:
    seen = []

    @hookimpl
    def timmx_export_finished(result: str) -> None:
        seen.append(result)

    manager = PluginManager()
    manager.register(plugin(timmx_export_finished=timmx_export_finished), "observer")
    assert manager.export_finished(None, "done") == []  # type: ignore[arg-type]
    assert seen == ["done"]


def test_one_observer_that_raises_does_not_stop_the_next() -> None:
    seen = []

    @hookimpl(specname="timmx_export_finished")
    def bad(request: Any, result: Any) -> None:
        raise OSError("no space")

    @hookimpl(specname="timmx_export_finished")
    def good(request: Any, result: Any) -> None:
        seen.append(result)

    manager = PluginManager()
    for name, hook in (("first", bad), ("second", good), ("third", bad)):
        manager.register(plugin(hook=hook), name, distribution=f"timmx-{name}", version="1")
    warnings = manager.export_finished(None, "done")  # type: ignore[arg-type]
    assert len(warnings) == 2
    assert "first (timmx-first 1) failed: OSError: no space" in warnings[0]
    assert seen == ["done"]


def test_the_first_model_source_wins(caplog: pytest.LogCaptureFixture) -> None:
    def source(answer: Any) -> Any:
        @hookimpl
        def timmx_model_source(name: str) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return plugin(timmx_model_source=timmx_model_source)

    manager = PluginManager()
    manager.register(source(None), "none")
    assert manager.model_source("x:y") is None
    manager.register(source(ValueError("bad")), "bad")
    manager.register(source("models/a"), "text")
    manager.register(source(Path("models/b")), "path")
    with caplog.at_level(logging.WARNING):
        assert manager.model_source("x:y") == Path("models/a")
    assert "plugin bad: ValueError: bad" in caplog.text
    speaking = PluginManager()
    speaking.register(source(ModelError("no such run")), "speaking")
    with pytest.raises(ModelError, match="no such run"):
        speaking.model_source("x:y")


def test_unknown_formats_get_near_matches() -> None:
    manager = PluginManager()
    manager.register(backends_plugin(Plain()), "plain")
    with pytest.raises(PluginError) as caught:
        manager.backend("plian")
    assert "did you mean plain?" in caught.value.hint
    with pytest.raises(PluginError) as caught:
        manager.backend("zebra")
    assert "timmx plugins list" in caught.value.hint
    assert "zebra" not in caught.value.hint
    assert manager.row_of("zebra") is None


def test_the_process_wide_manager_can_be_replaced() -> None:
    with use_manager(PluginManager()) as manager:
        assert get_manager() is manager
    assert get_manager() is not manager


BAD_OPTION = {
    "name": Option("Bad-Name", "int", "Help."),
    "core": Option("batch_size", "int", "Help."),
    "reserved": Option("json", "bool", "Help."),
    "negation": Option("no_verify", "bool", "Help."),
    "type": Option("level", "integer", "Help."),  # type: ignore[arg-type]
    "help": Option("level", "int", " "),
    "default": Option("level", "int", "Help.", "three"),
    "choice": Option("level", "str", "Help.", "d", choices=("a", "b")),
    "short": Option("level", "int", "Help.", short="-o"),
    "arity": Option("level", "int", "Help.", arity=2),
    "phase": Option("level", "int", "Help.", phase="later"),  # type: ignore[arg-type]
    "group": Option("level", "int", "Help.", group="Elsewhere"),
    "flags": Option("level", "bool", "Help.", (), multiple=True),
}


@pytest.mark.parametrize("fault", BAD_OPTION)
def test_bad_options_are_refused(fault: str) -> None:
    backend = Plain()
    backend.options = (BAD_OPTION[fault],)
    with pytest.raises(InvalidBackendError, match="format plain: "):
        check_backend(backend)


FP32 = Plain.precisions[0]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", "Plain"),
        ("name", "plain_format"),
        ("name", ""),
        ("name", None),
        ("name", "verify"),
        ("help", ""),
        ("help", "two\nlines"),
        ("suffixes", ()),
        ("suffixes", ("plain",)),
        ("suffixes", (".a/b",)),
        ("folder_suffixes", (".other",)),
        ("suffixes", ".plain"),
        ("precisions", ()),
        ("precisions", ("fp32",)),
        ("precisions", (FP32, FP32)),
        ("precisions", (dataclasses.replace(FP32, floor_db=float("nan")),)),
        ("absorbs", {"resize"}),
        ("refuses", {"opset": "no"}),
        ("options", (Option("level", "int", "Help."), Option("level", "int", "Help."))),
        ("options", ("level",)),
    ],
)
def test_bad_formats_are_refused(attribute: str, value: object) -> None:
    assert check_backend(Plain()).name == "plain"
    spoilt = Plain()
    setattr(spoilt, attribute, value)
    manager = PluginManager()
    assert manager.register(backends_plugin(spoilt), "spoilt").status == "failed"
    assert not manager.backends


def test_a_class_is_no_backend() -> None:
    row = PluginManager().register(backends_plugin(Plain), "plain")
    assert row.status == "failed"
    assert "gave a class" in row.error


def test_one_plugin_cannot_bring_a_format_twice() -> None:
    row = PluginManager().register(backends_plugin(Plain(), Plain()), "plain")
    assert row.status == "failed"
    assert "two formats called 'plain'" in row.error


def test_every_command_of_core_is_reserved() -> None:
    assert set(COMMANDS) <= RESERVED_WORDS
