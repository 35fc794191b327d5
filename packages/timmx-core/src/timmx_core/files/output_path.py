"""Where the file goes: its name, and what is refused before the slow part."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from timmx_core.backend import Backend, ExportRequest
from timmx_core.errors import OutputError, RequestError
from timmx_core.files.ownership import Naming, check_places
from timmx_core.files.records import record_path
from timmx_core.files.staging import output_error
from timmx_core.process.paths import absolute, is_text, working_folder

if TYPE_CHECKING:
    import torch

MOST_NAME = 150


def target_of(backend: Backend, request: ExportRequest) -> Path:
    """The path of the primary, absolute.

    :raises RequestError: a suffix that the format does not have; the working folder was removed.
    :raises OutputError: a directory, a path that cannot be spelt in UTF-8, or a file that exists
        and may not be replaced.
    """
    output = request.shared["output"]
    suffix = backend.suffixes[0]
    path = Path(output) if output else Path(default_name(request.model) + suffix)
    working_folder()  # without one, libraries of PyTorch's end the process
    path = absolute(path)
    if not is_text(path):
        raise OutputError(f"{path} cannot be spelt in UTF-8", "choose another place with -o PATH")
    _check_name(path)
    _check(backend, path, request.shared["overwrite"], output)
    return path


def default_name(model: str | torch.nn.Module) -> str:
    """A plain file name for any model name: no separators, no leading dot, bounded."""
    name = model if isinstance(model, str) else type(model).__name__
    source, colon, rest = name.partition(":")
    if colon:
        # hf-hub:org/name and local-dir:some/path are named by their last part.
        name = Path(rest.rstrip("/\\")).name or source
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")
    return name[:MOST_NAME] or "model"


def _check_name(path: Path) -> None:
    """Whether the system can have a file of that name, and its record.

    :raises OutputError: it is too long, or holds a NUL.
    """
    try:
        os.lstat(record_path(path))
    except FileNotFoundError:
        return
    except ValueError:
        raise OutputError("a file's name cannot hold a NUL") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise output_error(error, path) from None


def _check(backend: Backend, path: Path, overwrite: bool, output: str | None) -> None:
    directory = path.is_dir()
    if output and (
        output.endswith(("/", os.sep)) or (directory and path.suffix not in backend.suffixes)
    ):
        raise OutputError(
            f"{output} is a directory",
            f"name the file: -o {Path(output) / ('model' + backend.suffixes[0])}",
        )
    if path.name in backend.suffixes:
        raise RequestError(
            f"{path.name} is a suffix, and no name of a file",
            f"name the file: -o {(Path(output or '').parent / 'model').as_posix()}{path.name}",
        )
    if path.suffix not in backend.suffixes:
        written = " or ".join(backend.suffixes)
        raise RequestError(
            f"{backend.name} writes {written}, not {path.suffix or path.name}",
            f"-o {path.name.removesuffix(path.suffix)}{backend.suffixes[0]}",
        )
    naming = Naming.of(backend)
    if overwrite and directory and path.suffix not in backend.folder_suffixes:
        raise OutputError(f"{path} is a directory", "choose another place with -o PATH")
    check_places(path, naming.certain(path), naming, overwrite=overwrite)
    if path.parent.exists() and not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder", "choose another place with -o PATH")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise OutputError(f"no permission to write to {path.parent}", "choose another -o")
