"""Calls from Python that cannot succeed: each ends in a `TimmxError` that says why."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pocket_format import PocketBackend

import timmx_core
from timmx_core.errors import ExportError, ModelError, OutputError, RequestError
from timmx_core.plugins.manager import PluginManager
from timmx_core.testing.models import INPUT_SIZE, TinyCNN, tiny_cnn
from timmx_core.testing.plugins import manager_of
from timmx_core.verification import worker


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    return manager_of(PocketBackend())


def export(model: Any, manager: PluginManager, folder: Path, **options: Any) -> Any:
    given = {"output": folder / "model.pocket", "input_size": INPUT_SIZE, "verify": False}
    return timmx_core.export("pocket", model, manager=manager, **(given | options))


class Ending(TinyCNN):
    """Ends the program, or raises what does so when it is printed."""

    at_capture = False
    error: type[BaseException] = SystemExit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting() is self.at_capture:
            raise self.error(9)
        return super().forward(x)


class EndsWhenPrintedError(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


@pytest.mark.parametrize("error", [SystemExit, EndsWhenPrintedError])
@pytest.mark.parametrize(("at_capture", "kind"), [(False, ModelError), (True, ExportError)])
def test_a_model_that_ends_the_program_is_an_error(
    manager: PluginManager,
    tmp_path: Path,
    at_capture: bool,
    kind: type[Exception],
    error: type[BaseException],
) -> None:
    model = Ending().eval()
    model.at_capture, model.error = at_capture, error
    with pytest.raises(kind, match=f"{error.__name__}|SystemExit"):
        export(model, manager, tmp_path)
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "export(None)": (lambda: timmx_core.export(None, tiny_cnn()), "not as NoneType"),  # type: ignore[arg-type]
    "export_all(text)": (
        functools.partial(timmx_core.export_all, "test_resnet", "pocket"),
        "a list of names",
    ),
    "inspect(None)": (lambda: timmx_core.inspect(None), "not NoneType"),  # type: ignore[arg-type]
    "inspect(3)": (lambda: timmx_core.inspect(3), "not int"),  # type: ignore[arg-type]
    "inspect(bytes)": (lambda: timmx_core.inspect(b"a.pt"), r"os\.fsdecode"),  # type: ignore[arg-type]
    "verify(3)": (lambda: timmx_core.verify(3), "not int"),  # type: ignore[arg-type]
    "built_from=3": (lambda: timmx_core.verify("a.pt", built_from=3), "not int"),  # type: ignore[arg-type]
    **{
        f"timeout={value!r}": (
            functools.partial(timmx_core.verify, "a.pt", timeout=value),
            "--verify-timeout",
        )
        for value in ("x", 0, -1, float("nan"), float("inf"), 10**400, True)
    },
    **{
        f"verify_timeout={value!r}": (
            functools.partial(
                timmx_core.export,
                "pocket",
                tiny_cnn(),
                manager=manager_of(PocketBackend()),
                verify_timeout=value,
            ),
            "--verify-timeout",
        )
        for value in ("x", 0, float("nan"), float("inf"))
    },
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_makes_no_sense_is_refused(call: str) -> None:
    function, said = REFUSED[call]
    with pytest.raises(RequestError, match=said):
        function()


def test_a_process_that_can_start_no_other_is_told(
    manager: PluginManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(worker, "Worker", start)
    with pytest.raises(OutputError, match="no further file can be opened"):
        export(tiny_cnn(), manager, tmp_path, verify=True)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_can_open_nothing_is_told() -> None:
    code = (
        "import os, resource\nfrom timmx_core import OutputError, api\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))\n"
        "try:\n    with api.quiet(False):\n        pass\n"
        "except OutputError as error:\n    print(error.message, os.dup(1))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "what converters print cannot be kept: Too many open files 3\n"
