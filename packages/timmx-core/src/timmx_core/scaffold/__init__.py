"""`timmx plugins new`: a distribution with a format of one's own, which works as it is.

What it writes is in `templates/`, where `{{format}}` and its like stand for the names.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from timmx_core.errors import OutputError, RequestError
from timmx_core.files.staging import output_error
from timmx_core.hookspecs import API_VERSION
from timmx_core.plugins.checks import FORMAT_NAME, RESERVED_WORDS
from timmx_core.process.paths import absolute

if TYPE_CHECKING:
    from timmx_core.plugins.manager import PluginManager

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".in"  # so that neither Python nor its tools take a template for what will be made of it
# Names that a folder of sources cannot have in a distribution's own repository, or must not here.
RENAMED = {"src/module": "src/{{module}}", "github": ".github", "gitignore": ".gitignore"}
PLACE = re.compile(r"\{\{(\w+)\}\}")
MOST_LETTERS = 40


@dataclass(frozen=True)
class Names:
    """What everything in the distribution of one format is called."""

    format: str

    @property
    def distribution(self) -> str:
        """As it is published."""
        return f"timmx-{self.format}"

    @property
    def module(self) -> str:
        """As it is imported."""
        return self.distribution.replace("-", "_")

    @property
    def prefix(self) -> str:
        """Of its classes."""
        return "".join(part.capitalize() for part in self.format.split("-"))

    def fill(self, text: str) -> str:
        """A template with its places filled in.

        :raises KeyError: a place that stands for nothing.
        """
        known = {
            "format": self.format,
            "distribution": self.distribution,
            "module": self.module,
            "prefix": self.prefix,
            "suffix": f".{self.format}",
            "api_version": str(API_VERSION),
        }
        return PLACE.sub(lambda found: known[found[1]], text)


def names_of(word: str) -> Names:
    """The names that follow from what the user calls the format; `timmx-` may stand before it.

    :raises RequestError: no format can be called that.
    """
    format = word.removeprefix("timmx-")
    if not FORMAT_NAME.fullmatch(format) or len(format) > MOST_LETTERS:
        raise RequestError(
            f"a format cannot be called {word!r}",
            f"up to {MOST_LETTERS} lowercase letters and digits, with hyphens between words",
        )
    if format in RESERVED_WORDS:
        raise RequestError(f"{format!r} is a word of timmx itself", "choose another name")
    if format == "core":
        raise RequestError("timmx-core is timmx itself", "choose another name")
    return Names(format)


def refuse_taken(names: Names, manager: PluginManager) -> None:
    """A format that is here already: beside another plugin of one name neither would work.

    :raises RequestError: says who has it.
    """
    row = manager.row_of(names.format)
    if row is not None:
        owner = row.distribution or row.name
        raise RequestError(
            f"{owner} has the format {names.format!r} already",
            "two plugins with one format are both refused: choose another name",
        )


def write_plugin(names: Names, folder: Path) -> list[Path]:
    """Write the distribution, all of it or nothing.

    :param folder: missing or empty.
    :return: its files, relative to `folder`.
    :raises OutputError: there is something already, or it cannot be written.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(f"{folder} is there already", "name another folder behind the format")
    whole = absolute(folder)
    try:
        # An empty folder stays the one that it is: somebody may be working in it.
        beside = whole if whole.is_dir() else whole.parent
        beside.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".timmx-new-", dir=beside))
        try:
            staging.chmod(0o777 & ~_umask())
            written = [_write(staging, name, names.fill(text)) for name, text in _templates(names)]
            if beside == whole:
                _move_all(staging, whole)
            else:
                os.rename(staging, whole)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        failure = output_error(error, folder)
        raise OutputError(failure.message, "name another folder behind the format") from error
    return sorted(written)


def _move_all(staging: Path, folder: Path) -> None:
    """Put what was written into a folder that is empty otherwise, or leave it empty."""
    written = sorted(staging.iterdir())
    try:
        for path in written:
            path.rename(folder / path.name)
    except OSError:
        for path in written:
            if not path.exists():
                (folder / path.name).rename(path)
        raise


def _templates(names: Names) -> Iterator[tuple[str, str]]:
    """Names of the files to write, and their unfilled text."""
    for path in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        name = path.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX)
        for start, instead in RENAMED.items():
            if name == start or name.startswith(f"{start}/"):
                name = instead + name[len(start) :]
        yield names.fill(name), path.read_text("utf-8")


def _write(staging: Path, name: str, text: str) -> Path:
    path = staging / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path.relative_to(staging)


def _umask() -> int:
    """What the user does not want files to allow; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
