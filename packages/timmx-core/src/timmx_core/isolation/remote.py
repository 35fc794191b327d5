"""What is asked of a format whose environment is another one: export, verify, inspect, doctor.

Requests are checked here, against the description; what the environment is given are the words
that one would type there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Option
from timmx_core.errors import (
    ExportError,
    IsolationError,
    MissingDependency,
    OutputError,
    RequestError,
    TimmxError,
)
from timmx_core.files.publishing import read_record
from timmx_core.files.staging import remove_dead
from timmx_core.isolation.process import Ending, check_protocol, isolated_command, run_child
from timmx_core.isolation.protocol import error_from_json
from timmx_core.lifecycle.export import resolve_source
from timmx_core.plugins.format_json import DescribedBackend
from timmx_core.process.paths import absolute
from timmx_core.progress import Reporter
from timmx_core.request import options as option_data
from timmx_core.results import ExportResult, Inspection, Verdict

if TYPE_CHECKING:
    import torch

    from timmx_core.backend import Backend, ExportRequest
    from timmx_core.plugins.isolated import IsolatedPlugin
    from timmx_core.plugins.manager import PluginManager


def export_there(
    plugin: IsolatedPlugin,
    backend: DescribedBackend,
    model: str | torch.nn.Module,
    given: Mapping[str, Any],
    *,
    manager: PluginManager,
    reporter: Reporter,
    verbose: bool,
) -> ExportResult:
    """Export in a format's own environment; observers are told here.

    :raises TimmxError: as an export here would.
    """
    request, words = export_words(backend, model, given, manager)
    try:
        content = ask(plugin, words, reporter=reporter, verbose=verbose, fails=ExportError)
    except TimmxError:
        clear_away(request)
        raise
    result = result_from_json(content)
    for warning in manager.export_finished(request, result):
        reporter.note(warning)
    return result


def clear_away(request: ExportRequest) -> None:
    """Remove what an export that was killed left beside its target."""
    output = request.shared["output"]
    with suppress(OSError):  # also of a working folder that has been removed
        folder = Path(output).absolute().parent if output else Path.cwd()
        if folder.is_dir():
            remove_dead(folder)


def export_words(
    backend: Backend,
    model: str | torch.nn.Module,
    given: Mapping[str, Any],
    manager: PluginManager,
) -> tuple[ExportRequest, list[str]]:
    """A request that makes sense, and the command line that asks for it elsewhere.

    :raises RequestError: it makes no sense, or the model is not known by a name.
    """
    if not isinstance(model, str):
        raise RequestError(
            f"{backend.name} has an environment of its own, and a module of this process cannot "
            "be taken there",
            "name the model, with --checkpoint for its weights; or timmx plugins install --here "
            f"{backend.name}",
        )
    request = option_data.make_request(backend, model, given)
    resolved = resolve_source(request, manager)
    known = {option.name: option for option in option_data.options_of(backend)}
    values = {**resolved.shared, **resolved.options, "precision": resolved.precision.name}
    asked = {name for name, value in given.items() if value is not None}
    asked |= {n for n in ("pretrained", "checkpoint") if resolved.shared[n] != request.shared[n]}
    words = [word for name in known if name in asked for word in spell(known[name], values[name])]
    return request, [backend.name, *words, "--json", "--", str(resolved.model)]


def spell(option: Option, value: Any) -> list[str]:
    """An option with a value, as words of a command line."""
    flag = option_data.flag(option.name)
    if value is None:
        return []
    if option.type == "bool":
        if value:
            return [flag]
        return [f"--no-{flag[2:]}"] if option.default is True else []
    if option.multiple:
        return [f"{flag}={_word(option, item)}" for item in value]
    if option.arity:
        return [flag, *map(str, value)]
    return [f"{flag}={_word(option, value)}"]


def _word(option: Option, value: Any) -> str:
    if option.type in ("ints", "floats"):
        return ",".join(map(repr, value))
    return str(value)


def ask(
    plugin: IsolatedPlugin,
    words: Sequence[str],
    *,
    reporter: Reporter | None = None,
    verbose: bool = False,
    timeout: float | None = None,
    fails: type[TimmxError] = IsolationError,
) -> dict[str, Any]:
    """Run a command in a plugin's environment, and give its result.

    :param fails: what it means that the environment dies in the middle of its work.
    :raises TimmxError: what the command there raised.
    :raises IsolationError: the environment does not work.
    """
    plugin.check()
    verbosely = ["-v"] if verbose else []
    ending = run_child(
        isolated_command(plugin.environment.python),
        [*verbosely, *words],
        reporter=reporter,
        verbose=verbose,
        timeout=timeout,
    )
    whose = f"the environment of {plugin.name}"
    try:
        return content_of(ending, whose, plugin.name, fails)
    except MissingDependency as error:
        # What it says is for an environment that one installs into by hand.
        error.hint = f"timmx plugins remove {plugin.name}, and install it again"
        raise


def content_of(
    ending: Ending, whose: str, name: str, fails: type[TimmxError] = IsolationError
) -> dict[str, Any]:
    """What a child gave.

    :raises TimmxError: what it raised, or what its death means.
    """
    content = ending.content
    if content is None:
        raise _death(ending, whose, name, fails)
    check_protocol(content["protocol"], whose, name)
    if "error" in content:
        raise error_from_json(content["error"])
    result = content.get("result")
    if not isinstance(result, dict):
        raise IsolationError(f"{whose} gave no result that this timmx understands")
    return result


def _death(ending: Ending, whose: str, name: str, fails: type[TimmxError]) -> TimmxError:
    error: TimmxError
    if ending.code == OutputError.exit_code:
        return OutputError(
            "the result of the export could not be handed over: no room for it",
            "make room in the temporary folder, or name another one with TMPDIR",
        )
    if ending.answered and not ending.trouble:
        error = fails(f"{whose} was lost at work: {ending.cause}")
        if ending.code == -9:
            error.hint = "free memory, or try a smaller model, --batch-size or --input-size"
    else:
        error = IsolationError(f"{whose} does not work: {ending.cause}")
        error.hint = f"timmx plugins repair {name}"
    error.log_tail = ending.said
    return error


def result_from_json(data: Mapping[str, Any]) -> ExportResult:
    """What `timmx FORMAT --json` prints, as the Python API has it."""
    path = Path(data["path"]) if data.get("path") else None
    manifest = dict(data["manifest"])
    verdict = Verdict.from_json(data["verdict"])
    record = (read_record(path) if path is not None else None) or {
        "manifest": manifest,
        "verdict": data["verdict"],
    }
    return ExportResult(
        path=path,
        verdict=verdict,
        manifest=manifest,
        record=record,
        size=int(data["size"]),
        companions=tuple(map(Path, data.get("companions", ()))),
        notes=tuple(data.get("notes", ())),
        seconds=dict(data.get("seconds", {})),
        kept=Path(data["kept"]) if data.get("kept") else None,
    )


def owner_of(path: Path, manager: PluginManager) -> IsolatedPlugin | None:
    """The environment that knows a file's format; None: none does, or it is a format of this one.

    The record beside the file knows best; without one its suffix has to do.
    """
    isolated = manager.isolated
    if not isolated:
        return None
    try:
        record = read_record(path)
    except TimmxError:
        record = None  # what is wrong with it is told by whoever reads the file
    if record is not None:
        return isolated.get(str(record["manifest"].get("format")))
    formats = manager.formats
    if any(path.suffix in backend.suffixes for backend in manager.backends.values()):
        return None
    found = (name for name in isolated if path.suffix in formats[name].suffixes)
    name = next(found, None)
    return None if name is None else isolated[name]


def inspect_there(
    plugin: IsolatedPlugin, path: Path, *, snippet: bool = False
) -> tuple[Inspection, str | None]:
    """What a file says of itself to the environment that knows its format.

    :raises ArtifactError: it cannot be read.
    """
    words = ["inspect", "--json", *(["--snippet=python"] if snippet else []), "--"]
    data = ask(plugin, [*words, str(absolute(path))])
    inspection = Inspection(
        path=path,
        format=data["format"],
        embedded=data["embedded"],
        manifest=data["manifest"],
        record=data["record"],
        intact=data["intact"],
        problems=tuple(data["problems"]),
    )
    return inspection, data.get("snippet")


def verify_there(
    plugin: IsolatedPlugin,
    path: Path,
    options: Mapping[str, Any],
    *,
    reporter: Reporter,
    verbose: bool,
) -> Verdict:
    """Verify a file where its runtime is.

    :param options: of `timmx verify`, with underscores; None is left out.
    :raises TimmxError: as a verification here would.
    """
    own = {option.name: option for backend in plugin.backends for option in backend.options}
    words = ["verify", "--json"]
    for name, value in options.items():
        if value is not None:
            # What is neither its own nor core's is refused over there.
            option = own.get(name, Option(name, "str", name))
            words += spell(option, option_data.coerce(own[name], value) if name in own else value)
    content = ask(plugin, [*words, "--", str(path)], reporter=reporter, verbose=verbose)
    return Verdict.from_json(content["verdict"])
