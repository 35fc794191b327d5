"""A plugin of formats whose files crash, hang or devour memory when they are run.

`ACCIDENT_FORMATS` names the formats that they are made from: `onnx` gives `onnx-segfault`,
`onnx-hang` and `onnx-glutton`, which export as ONNX does, and `onnx-noisy` and `onnx-failing`,
whose converters print in every way there is. With `ACCIDENT_KILL=2:9`, signal 9 comes
right before the second file of an export is put in place.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from timmx_core.backend import Artifact, Backend, Context, ExportRequest, LoadedModel, Runner
from timmx_core.hookspecs import API_VERSION, hookimpl

TIMMX_API_VERSION = API_VERSION


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    while True:
        time.sleep(1)


def _devour() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * (16 << 20))


ACCIDENTS = {"segfault": _segfault, "hang": _hang, "glutton": _devour}


def _good(name: str) -> Backend:
    for point in entry_points(group="timmx"):
        if point.module != __name__:
            for backend in point.load().timmx_backends():
                if backend.name == name:
                    return backend  # type: ignore[no-any-return]
    raise LookupError(name)


def _bad(good: Backend, kind: str) -> type[Backend]:
    def crash(self: Backend, path: Path, options: Mapping[str, Any]) -> Runner:
        ACCIDENTS[kind]()
        raise AssertionError("it goes on")

    body = {"name": f"{good.name}-{kind}", "open": crash, "__module__": __name__}
    return type(f"{type(good).__name__}_{kind}", (type(good),), body)


NOISE = ("by print", "by a logger", "by a warning", "by Python's stderr", "by write(1)",
         "by write(2)", "by C's stdout", "by another process")  # fmt: skip


def _make_noise() -> None:
    """Print in every way there is."""
    by = iter(NOISE)
    print(f"noise {next(by)}")
    logging.getLogger("converter").error("noise %s", next(by))
    warnings.warn(f"noise {next(by)}", stacklevel=2)
    sys.stderr.write(f"noise {next(by)}\n")
    os.write(1, f"noise {next(by)}\n".encode())
    os.write(2, f"noise {next(by)}\n".encode())
    libc = ctypes.CDLL(None)
    libc.puts(f"noise {next(by)}".encode())
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", f"print('noise {next(by)}')"], check=True)


def _loud(good: Backend, kind: str) -> type[Backend]:
    def export(
        self: Backend, model: LoadedModel, request: ExportRequest, context: Context
    ) -> Artifact:
        _make_noise()
        if kind == "failing":
            raise RuntimeError("operator 7 is not there\nand much more")
        return good.export(model, request, context)

    body = {"name": f"{good.name}-{kind}", "export": export, "__module__": __name__}
    return type(f"{type(good).__name__}_{kind}", (type(good),), body)


def _make() -> list[Backend]:
    made = []
    for name in os.environ.get("ACCIDENT_FORMATS", "").split():
        good = _good(name)
        bads = [_bad(good, kind) for kind in ACCIDENTS]
        bads += [_loud(good, kind) for kind in ("noisy", "failing")]
        for bad in bads:
            globals()[bad.__name__] = bad  # where the verification's process looks for it
            made.append(bad())
    return made


@hookimpl
def timmx_backends() -> list[Backend]:
    """The formats of `ACCIDENT_FORMATS`."""
    return BACKENDS


def _kill_while_publishing(when: str) -> None:
    from timmx_core.files import publishing

    step, number = map(int, when.split(":"))
    put, seen = publishing.put, [0]

    def counted(source: Path, target: Path, *, overwrite: bool) -> None:
        seen[0] += 1
        if seen[0] == step:
            os.kill(os.getpid(), number)
        put(source, target, overwrite=overwrite)

    publishing.put = counted


BACKENDS = _make()
if os.environ.get("ACCIDENT_KILL"):
    _kill_while_publishing(os.environ["ACCIDENT_KILL"])
