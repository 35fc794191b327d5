"""A file is run in another process, which loads only the file and its runtime.

A crash, a hang or a memory blow-up there is a finding about the file and not the end of the
command. The process is started early, so that importing the runtime overlaps with the export.

The protocol: the parent writes one JSON line naming the format's class, later one naming the
job; the worker leaves its arrays and `result.json` in the job's folder and exits. When the parent
is gone the worker's standard input ends, and so does the worker.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from timmx_core.backend import Backend, Runner
from timmx_core.errors import (
    ArtifactError,
    CannotRunHere,
    MissingDependency,
    PluginError,
    TimmxError,
)
from timmx_core.process.gc_tuning import seldom_collected
from timmx_core.process.interrupts import die_with_parent, kill_session
from timmx_core.verification.measure import output_text

if TYPE_CHECKING:
    import numpy as np

POLL = 0.05  # seconds
MEMORY_SHARE = 0.9  # of what is available when the job starts
MEMORY_VARIABLE = "TIMMX_VERIFY_MEMORY_GB"
EXIT_NO_SPACE = 74  # the worker's own, where its arrays do not fit on the disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BOOT = (
    "import json,sys; sys.path[:]=json.loads(sys.argv[1]); "
    "from timmx_core.verification.worker import main; main()"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a job. `outputs[batch][name]` is (rows, ...) as `run_probes` says."""

    status: str  # "ok", "cannot run", "failed"
    reason: str = ""
    hint: str = ""
    runner: str = ""
    kind: str = "native"
    outputs: Mapping[int, Mapping[str, np.ndarray]] | None = None


def check_found(backend: Backend) -> None:
    """Refuse a format that another process could not import.

    :raises PluginError: it is defined in a script, a notebook or a function.
    """
    kind = type(backend)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise PluginError(
            f"files of {backend.name} are run in another process, which cannot import "
            f"{kind.__qualname__}: it is defined in "
            + ("a script or notebook" if kind.__module__ == "__main__" else "a function"),
            "define it at the top of a module that can be imported",
        )


class Worker:
    """One process that will run one job.

    :raises PluginError: it could not import the format.
    """

    def __init__(self, backend: Backend) -> None:
        check_found(backend)
        kind = type(backend)
        self._process = subprocess.Popen(
            # What is no text is nothing that Python would look at.
            [sys.executable, "-I", "-c", BOOT, json.dumps([p for p in sys.path if type(p) is str])],
            stdin=subprocess.PIPE,
            # stdout carries the result of the command alone, so both go where stderr goes.
            stdout=_stderr(),
            stderr=_stderr(),
            # A Ctrl-C at the terminal is the parent's to handle.
            start_new_session=True,
        )
        self._send({"module": kind.__module__, "class": kind.__qualname__})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            kill_session(self._process)
        self._process.wait()
        if self._process.stdin:
            # What was still in the pipe's buffer is of no use to a dead process.
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def run(
        self,
        path: Path,
        inputs: Mapping[str, np.ndarray],
        batches: tuple[int, ...],
        options: Mapping[str, Any],
        folder: Path,
        timeout: float,
    ) -> Outcome:
        """Run the file on all probes at each batch size. Ends the process.

        :param inputs: (probes, ...) by name, as the file's ports say.
        :param folder: an empty folder for this job's arrays.
        :raises OSError: the disk is too full for them, which says nothing about the file.
        """
        folder.mkdir(parents=True)
        for index, array in enumerate(inputs.values()):
            _save(folder / f"input{index}.npy", array)
        self._send(
            {
                "path": str(path.resolve()),
                "inputs": list(inputs),
                "batches": list(batches),
                "options": dict(options),
                "folder": str(folder.resolve()),
            }
        )
        try:
            trouble = self._wait(timeout)
        finally:
            self.close()
        if self._process.returncode == EXIT_NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return _collect(folder, trouble, batches)

    def _send(self, message: Mapping[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # A worker that is dead already is noticed when its result is collected.
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def _wait(self, timeout: float) -> str:
        """Empty when the worker ended by itself with 0; else what happened to it."""
        import psutil

        limit = _memory_limit()
        deadline = time.monotonic() + timeout
        watched: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            watched = psutil.Process(self._process.pid)
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                return f"the file was still running after {timeout:g} s"
            if watched is not None:
                with contextlib.suppress(psutil.Error):
                    if watched.memory_info().rss > limit:
                        return f"running the file took more than {limit / 2**30:.1f} GiB of memory"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL)
        return _ending(self._process.returncode)


def _memory_limit() -> float:
    import psutil

    asked = os.environ.get(MEMORY_VARIABLE)
    if asked:
        with contextlib.suppress(ValueError):
            return float(asked) * 2**30
    return float(psutil.virtual_memory().available) * MEMORY_SHARE


def _ending(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the runtime died with {signal.Signals(-code).name} on this file"
    return f"the process that ran the file ended with exit code {code}"


def _collect(folder: Path, trouble: str, batches: tuple[int, ...]) -> Outcome:
    import numpy as np

    result_file = folder / "result.json"
    if trouble or not result_file.is_file():
        return Outcome("failed", trouble or "the process that ran the file left no result")
    result = json.loads(result_file.read_bytes())
    if result["status"] != "ok":
        return Outcome(
            result["status"], result["reason"], result.get("hint", ""), result.get("runner", "")
        )
    taken = sum(path.stat().st_size for path in folder.glob("output*.npy"))
    if taken > _memory_limit():
        return Outcome("failed", f"the file's outputs take {taken / 2**30:.1f} GiB")
    outputs = {
        batch: {
            name: np.load(folder / f"output{batch}_{index}.npy", allow_pickle=False)
            for index, name in enumerate(result["outputs"])
        }
        for batch in batches
    }
    return Outcome("ok", "", "", result["runner"], result["kind"], outputs)


def _stderr() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def main() -> None:
    """The worker's own life: warm up, wait for the job, run it, leave the result."""
    die_with_parent("SIGKILL")
    backend = _find(json.loads(sys.stdin.buffer.readline()))
    with seldom_collected(), contextlib.suppress(TimmxError, ImportError):
        backend.preload()  # whatever is missing is told when the file is opened
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    job = json.loads(line)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    code = 0
    try:
        result = _run(backend, job)
        temporary = Path(job["folder"]) / "result.tmp"
        temporary.write_text(json.dumps(result))
        temporary.replace(Path(job["folder"]) / "result.json")
    except _NoSpaceError:
        code = EXIT_NO_SPACE
    except OSError as error:
        code = EXIT_NO_SPACE if error.errno in FULL else 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Runtimes are known to crash while they are torn down; the result is out already.
    os._exit(code)


class _NoSpaceError(Exception):
    """An array does not fit on the disk: no fault of the file's."""


def _save(path: Path, array: np.ndarray) -> None:
    """`numpy.save`, which forgets why it could not write where it writes to a real file.

    :raises OSError: with its number.
    """
    import numpy as np

    with path.open("wb") as file:
        np.lib.format.write_array(_Stream(file), array, allow_pickle=False)  # type: ignore[no-untyped-call,unused-ignore]


class _Stream:
    """A file of which numpy knows only that it can be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def _find(reference: Mapping[str, str]) -> Backend:
    import importlib

    found: Any = importlib.import_module(reference["module"])
    for part in reference["class"].split("."):
        found = getattr(found, part)
    backend: Backend = found()
    return backend


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _run(backend: Backend, job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with backend.open(Path(job["path"]), job["options"]) as runner:
            names = _run_batches(runner, job)
            return {"status": "ok", "runner": runner.name, "kind": runner.kind, "outputs": names}
    except (CannotRunHere, MissingDependency) as error:
        return {"status": "cannot run", "reason": error.message, "hint": error.hint}
    except ArtifactError as error:
        return {"status": "failed", "reason": error.message, "hint": error.hint}
    except _NoSpaceError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises is a finding
        traceback.print_exc()
        first = " ".join(str(error).split())[:300]
        return {
            "status": "failed",
            "reason": f"the runtime refused the file: {type(error).__name__}: {first}",
        }


def _run_batches(runner: Runner, job: Mapping[str, Any]) -> list[str]:
    import numpy as np

    folder = Path(job["folder"])
    inputs = {
        name: np.load(folder / f"input{index}.npy", allow_pickle=False)
        for index, name in enumerate(job["inputs"])
    }
    names: list[str] = []
    for batch in job["batches"]:
        outputs = run_probes(runner, inputs, batch)
        names = list(outputs)
        for index, array in enumerate(outputs.values()):
            try:
                _save(folder / f"output{batch}_{index}.npy", array)
            except OSError as error:
                if error.errno in FULL:
                    raise _NoSpaceError from error
                raise
    return names


def run_probes(
    runner: Runner, inputs: Mapping[str, np.ndarray], batch: int
) -> dict[str, np.ndarray]:
    """All probes through a runner, `batch` at a time; the last batch is filled up in a circle.

    :param inputs: (probes, ...) by name.
    :return: (rows, ...) by name, every row of every batch: row i answers probe i modulo their
        number, and there may be more rows than probes.
    :raises ArtifactError: the first dimension of an output is not the batch.
    """
    import numpy as np

    count = len(next(iter(inputs.values())))
    collected: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, batch):
        index = np.arange(start, start + batch) % count
        outputs = runner.run({name: array[index] for name, array in inputs.items()})
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != batch:
                raise ArtifactError(
                    f"{output_text(name)} has shape {array.shape} for a batch of {batch}"
                )
            collected.setdefault(name, []).append(np.asarray(array))
    return {name: np.concatenate(parts) for name, parts in collected.items()}
