"""`timmx` from a process that has imported torch and timm already: each command is a fork of it.

The same code runs as in a cold start, four seconds sooner, which is what makes hundreds of exports
bearable. `Warm` is the side that asks; run as a script, this file is the side that answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self


class Warm:
    """The process that commands are forked from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def start(
        self, arguments: Sequence[str], folder: Path, out: Path, err: Path, **variables: str
    ) -> int:
        """Fork a command.

        :param out: the file that its stdout goes to.
        :param variables: of its environment, over those of the process.
        :return: its process id.
        """
        asked = {"start": [*arguments], "folder": str(folder), "variables": variables}
        return int(self._ask(asked | {"out": str(out), "err": str(err)}))

    def wait(self, pid: int) -> int:
        """The exit code of a command, or minus the signal that killed it."""
        return int(self._ask({"wait": pid}))

    def _ask(self, question: Mapping[str, Any]) -> int:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question).encode() + b"\n")
        stdin.flush()
        return int(stdout.readline())


def main() -> None:
    """Answer until stdin ends."""
    import_what_exports_need()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
            continue
        pid = os.fork()
        if pid == 0:
            answers.close()
            variables = {**os.environ, **question["variables"]}
            become(question["start"], question["folder"], variables, _streams(question))
        answers.write(f"{pid}\n")


def import_what_exports_need() -> None:
    """What each export of any format would import."""
    for name in (
        "torch.export",
        "timm",
        "timmx_core.cli.program",
        "timmx_core.lifecycle.reference",
    ):
        import_module(name)


def become(
    arguments: Sequence[str], folder: str, variables: Mapping[str, str], streams: Sequence[int]
) -> NoReturn:
    """In a forked process: run a command as if it had been started anew, and end.

    :param variables: its environment.
    :param streams: the descriptors of its stdin, stdout and stderr.
    """
    from timmx_core.cli.program import run

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    tempfile.tempdir = None
    sys.argv = ["timmx", *arguments]
    code = 1
    try:
        code = run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _streams(question: Mapping[str, Any]) -> list[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    out, err = (os.open(question[name], flags, 0o600) for name in ("out", "err"))
    return [os.open(os.devnull, os.O_RDONLY), out, err]


if __name__ == "__main__":
    main()
