"""Run the fenced commands of a Markdown page, and compare what they print with what it shows.

All fences of a page run in one folder, in order, so that a later one may use an earlier one's file.

- `console`: lines that start with `$ ` are commands (continued by a backslash), the lines after one
  are what it prints. A command exits with 0, unless the next is `echo $?`. A command with no lines
  after it may print anything.
- `bash`, `python`: a script, which exits with 0.
- `text`, `json`, `toml`, ...: not run. A fence without a language is an error.

A fence is left out when the last line of text before it starts with `not run:` and a reason.

Numbers may differ from those on the page (`resnet18` is no number), and runs of blanks count as
one. `...` stands for anything within a line, and alone on a line for any number of lines. The
folder is shown as `/home/me`; it holds `image.jpg`, a photograph, and `lite0`, a network as timm's
`local-dir:` takes it.

`python tests/support/docrun.py PAGE...` rewrites what is shown where it no longer matches, and puts
in what is missing; `--fresh` before the pages also takes new numbers where nothing is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import testdata
import warm_command

ROOT = Path(__file__).resolve().parents[2]
RUN = ("bash", "console", "python")
SHOWN = ("ini", "json", "mermaid", "text", "toml", "yaml")
HOME = "/home/me"
_MARK = "\x1e"
_NOT_RUN = re.compile(r"^[\s>*_(]*not run: *\S", re.IGNORECASE)


class PageError(AssertionError):
    """The page does not do what it shows, or cannot be read."""


@dataclass(frozen=True)
class Fence:
    page: Path
    line: int  # of the opening backticks, from 1
    language: str
    body: str
    not_run: bool

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    text: str
    shown: str | None  # None: the page shows no output


@dataclass(frozen=True)
class Ran:
    command: Command
    status: int
    printed: str


def pages() -> list[Path]:
    """Every page of the repository that people read."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")]
    return sorted(found)


def isolation_page() -> Path:
    """It needs a host in which no format is installed, and is run where that is so."""
    return ROOT / "docs/isolation.md"


def format_pages() -> list[Path]:
    """The pages that need one format, and are run where that is installed."""
    return sorted((ROOT / "docs/formats").glob("*.md"))


def read_fences(page: Path) -> list[Fence]:
    """The fences of a page.

    :raises PageError: for a fence that is not closed, or whose language is not known.
    """
    fences = []
    before = ""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        opening = re.match(r"^( *)(`{3,})(.*)$", line)
        if opening is None:
            before = line if line.strip() else before
            continue
        indent, ticks, language = len(opening[1]), opening[2], opening[3].strip()
        if language not in RUN + SHOWN:
            raise PageError(f"{page}:{number}: a fence in {language!r}; known: {RUN + SHOWN}")
        body = []
        for _, inner in lines:
            if inner.strip() == ticks:
                break
            body.append(inner[indent:] if not inner[:indent].strip() else inner)
        else:
            raise PageError(f"{page}:{number}: this fence is not closed")
        not_run = _NOT_RUN.match(before) is not None
        fences.append(Fence(page, number, language, "\n".join(body) + "\n", not_run))
        before = ""
    return fences


def run_page(page: Path, folder: Path) -> int:
    """Run the fences of a page in a folder, and say how many ran.

    :raises PageError: for the first that fails or prints something else.
    """
    fences = [f for f in read_fences(page) if f.language in RUN and not f.not_run]
    for fence in fences:
        if fence.language == "console":
            run_console(fence, folder)
        else:
            program = sys.executable if fence.language == "python" else "bash"
            status, printed = _run([program, *_script(fence, folder)], folder)
            if status:
                raise PageError(f"{fence.where}: exit code {status}\n{printed}")
    return len(fences)


def run_console(fence: Fence, folder: Path) -> None:
    """Run the commands of one `console` fence in one shell.

    :raises PageError: when one fails unexpectedly, or prints something else than is shown.
    """
    results = _run_commands(fence, folder)
    for number, ran in enumerate(results):
        where = f"{fence.where}: $ {ran.command.text}"
        asked = number + 1 < len(results) and results[number + 1].command.text == "echo $?"
        if ran.status and not asked:
            raise PageError(f"{where}\nexit code {ran.status}\n{ran.printed}")
        if not _as_shown(ran):
            shown = f"--- shown\n{ran.command.shown}\n--- printed\n{ran.printed}"
            raise PageError(f"{where}\n{shown}")


def rewrite(page: Path, folder: Path, *, fresh: bool = False) -> None:
    """Run the `console` fences of a page, and put in what they print where that has changed."""
    lines = page.read_text(encoding="utf-8").splitlines()
    changes = []
    for fence in read_fences(page):
        if fence.language == "console" and not fence.not_run:
            body = ""
            for ran in _run_commands(fence, folder):
                shown = ran.command.shown
                keep = shown is not None and _as_shown(ran) and not (fresh and "..." not in shown)
                printed = shown if keep else ran.printed
                body += f"$ {ran.command.text}\n" + (f"{printed}\n" if printed else "")
            changes.append((fence, body.splitlines()))
    for fence, body_lines in reversed(changes):
        lines[fence.line : fence.line + len(fence.body.splitlines())] = body_lines
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run_commands(fence: Fence, folder: Path) -> list[Ran]:
    commands = read_commands(fence)
    script = "".join(
        f'{command.text}\n_status=$?; printf "\\n{_MARK}%d\\n" $_status; (exit $_status)\n'
        for command in commands
    )
    _, printed = _run(["bash", "-c", script], folder)
    parts = re.split(rf"\n{_MARK}(\d+)\n", printed.replace(str(folder), HOME))
    outputs, statuses = parts[:-1:2], map(int, parts[1::2])
    if len(outputs) < len(commands):
        raise PageError(f"{fence.where}: the shell ended early\n{printed}")
    return [
        Ran(command, status, output.strip("\n"))
        for command, output, status in zip(commands, outputs, statuses, strict=True)
    ]


def _as_shown(ran: Ran) -> bool:
    shown = ran.command.shown
    return shown is None or matches(shown, ran.printed, exact=ran.command.text == "echo $?")


def read_commands(fence: Fence) -> list[Command]:
    """The commands of a `console` fence, with the output that follows each."""
    commands: list[tuple[list[str], list[str]]] = []
    continued = False
    for line in fence.body.splitlines():
        if continued:
            commands[-1][0].append(line.removeprefix("> "))
        elif line.startswith("$ "):
            commands.append(([line.removeprefix("$ ")], []))
        elif commands:
            commands[-1][1].append(line)
        elif line.strip():
            raise PageError(f"{fence.where}: a console fence starts with `$ `, not {line!r}")
        continued = bool(commands) and not commands[-1][1] and commands[-1][0][-1].endswith("\\")
    return [
        Command("\n".join(text), "\n".join(shown).strip("\n") or None) for text, shown in commands
    ]


def matches(shown: str, printed: str, *, exact: bool = False) -> bool:
    """Whether `printed` is what `shown` promises; `exact`: its numbers too."""
    lines = [_plain(line, exact=exact) for line in shown.strip().splitlines()]
    pattern = ""
    for line in lines:
        if line == "...":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += "[^\n]*?".join(re.escape(part) for part in line.split("...")) + r"\n"
    text = "".join(_plain(line, exact=exact) + "\n" for line in printed.strip("\n ").splitlines())
    return re.fullmatch(pattern, text) is not None


def _plain(line: str, *, exact: bool) -> str:
    line = " ".join(line.split())
    # A number stands by itself or before its unit; one inside a word belongs to the word.
    return line if exact else re.sub(r"(?<![\w.])\d+(?:[.,]\d+)*", "0", line)


def _script(fence: Fence, folder: Path) -> list[str]:
    # A file, and not standard input: an export starts processes that import the main script.
    path = folder / f".page-{fence.line}.{fence.language}"
    path.write_text(fence.body, encoding="utf-8")
    return [str(path)] if fence.language == "python" else ["-euo", "pipefail", str(path)]


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and everything printed, in the environment of the tests."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(warm_command.folder_of_command()), bin_folder, os.environ.get("PATH", "")]
        ),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def main(arguments: list[str]) -> None:
    fresh = arguments[:1] == ["--fresh"]
    for name in arguments[fresh:]:
        with tempfile.TemporaryDirectory() as folder:
            testdata.furnish(Path(folder))
            rewrite(Path(name).resolve(), Path(folder), fresh=fresh)


if __name__ == "__main__":
    main(sys.argv[1:])
