"""Writing torch's archives so that a full disk is an `OSError`, and not the end of the process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_torch.archive import PORTS

if TYPE_CHECKING:
    import torch

BUFFER = 1 << 20
# Of a node's metadata: where in which checkout the line stands. Two checkouts, two files.
LOCAL_METADATA = ("stack_trace", "from_node", "source_fn_stack")


class QuietFile(io.RawIOBase):
    """A file that remembers its first failure instead of raising it.

    torch's archive writer is C++ and finishes the archive in its destructor. Where a write raises,
    it tries again there, and the second exception aborts the process (torch 2.15). So a failed
    write is not reported to it, later ones are dropped, and `writing` raises when torch is done.
    """

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self.file = file
        self.failure: OSError | None = None
        self._waiting = bytearray()  # torch writes little at a time

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """See `io.IOBase`."""
        self.flush()
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self.file.tell() + len(self._waiting)

    def write(self, data: Any) -> int:
        """Write all of `data`, or nothing more after the first failure."""
        size = memoryview(data).nbytes
        if self.failure is None:
            self._waiting += data
            if len(self._waiting) >= BUFFER:
                self.flush()
        return size

    def flush(self) -> None:
        """See `io.IOBase`."""
        waiting, self._waiting = memoryview(self._waiting), bytearray()
        while waiting and self.failure is None:
            try:
                waiting = waiting[self.file.write(waiting) :]
            except OSError as error:
                self.failure = error


@contextmanager
def writing(path: Path) -> Iterator[QuietFile]:
    """A file to hand to torch.

    :raises OSError: what went wrong with the disk, whatever torch made of it.
    """
    with path.open("wb", buffering=0) as raw:
        quiet = QuietFile(raw)
        try:
            yield quiet
        except Exception:
            if quiet.failure is not None:
                raise quiet.failure from None
            raise
        quiet.flush()
        if quiet.failure is not None:
            raise quiet.failure


def ports(inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """The extra file that names inputs and outputs, as torch's savers take it."""
    return {PORTS: json.dumps({"inputs": list(inputs), "outputs": list(outputs)})}


def save_program(
    program: torch.export.ExportedProgram, path: Path, extra_files: dict[str, str]
) -> None:
    """Save a program without the traces of this machine.

    :raises OSError: the disk is full, ...
    """
    import torch

    strip(program)
    with writing(path) as file:
        torch.export.save(program, file, extra_files=extra_files)  # type: ignore[arg-type]


def save_script(script: torch.jit.ScriptModule, path: Path, extra_files: dict[str, str]) -> None:
    """Save a TorchScript module.

    :raises OSError: the disk is full, ...
    """
    import torch

    with writing(path) as file:
        save: Callable[..., None] = torch.jit.save
        save(script, file, _extra_files=extra_files)


def strip(program: torch.export.ExportedProgram) -> None:
    """Take stack traces out of a program; half of its graph is paths of this machine."""
    import torch

    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in LOCAL_METADATA:
                    node.meta.pop(key, None)
