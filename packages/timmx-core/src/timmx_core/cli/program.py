"""The outermost layer: arguments in, exit code out, and every error in one place."""

from __future__ import annotations

import atexit
import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from traceback import walk_tb
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from timmx_core.cli.settings import (
    COMPLETE_VARIABLE,
    PROGRAM,
    RESULT_OPTION,
    Settings,
    answering,
    discard_stdout,
    print_json,
    unwritable,
)
from timmx_core.cli.terminal import HostTerminal
from timmx_core.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    OutputError,
    PluginError,
    RequestError,
    TimmxError,
    VerificationError,
    text_of,
)
from timmx_core.process.interrupts import NAMES, clean_up

if TYPE_CHECKING:
    from timmx_core.cli.terminal import Terminal
    from timmx_core.isolation.protocol import Answer

GRACE = 2.0  # seconds that threads of plugins and converters have to end
BUG = "timmx itself failed, which it should not"


def main() -> NoReturn:
    """The console script."""
    # Threads of torch that wait for each other by spinning take ten times the time where other
    # processes want the same cores; sleeping costs next to nothing where none does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_standard_streams()
    _leave(run(sys.argv[1:]))


def _open_standard_streams() -> None:
    """Lead nowhere what the caller closed (`>&-`, services, cron): nobody wants it.

    Otherwise the next file to be opened, such as the one that is being made, has the number of
    stdout, and what a library in C prints goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        # The lowest number that is free: its own, unless somebody has taken that meanwhile.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(nowhere, True)
        mode = "w" if number else "r"
        setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8", errors="replace"))


def _leave(code: int) -> NoReturn:
    """End the process without the teardown of modules.

    Converters leave millions of objects, which take more than a second to free one by one, and
    native libraries that are known to crash while they are torn down.
    """
    # Nothing of timmx runs any more, and a plugin's thread does not keep the command for long.
    ending = threading.Thread(target=_end_threads, daemon=True)
    ending.start()
    ending.join(GRACE)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    os._exit(code)


def _end_threads() -> None:
    """As Python does it: pools end only when they are told so, and then can be joined."""
    for tell in reversed(threading._threading_atexits):  # type: ignore[attr-defined]
        tell()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not main_thread():
            thread.join()


def run(arguments: Sequence[str]) -> int:
    """One run of the command line.

    :return: the exit code.
    """
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        return _complete(instruction)
    if arguments[:1] == [RESULT_OPTION] and len(arguments) > 1:
        return _run_for_host(Path(arguments[1]), arguments[2:])
    return _run(arguments, Settings(json="--json" in arguments))


def _run_for_host(result: Path, arguments: Sequence[str]) -> int:
    """As part of another `timmx`, which waits for the result and draws the progress."""
    from timmx_core.isolation.protocol import Answer
    from timmx_core.process.interrupts import die_with_parent

    die_with_parent("SIGTERM")
    try:
        answer = Answer(result)
    except OSError:
        return OutputError.exit_code
    settings = Settings(HostTerminal(answer.log), json=True, answer=answer)
    with closing(answer), answering(answer):
        return _run(arguments, settings)


def _run(arguments: Sequence[str], settings: Settings) -> int:
    with closing(settings.terminal), _logging(settings), _signals(settings.terminal):
        try:
            code = _invoke(list(arguments), settings)
        except BrokenPipeError:
            return _reader_gone()
        except OSError as error:
            code = _report(_stdout_error(error) or error, settings)
        except Exception as error:  # noqa: BLE001 (the last place that can explain it)
            code = _report(error, settings)
        except KeyboardInterrupt:  # a library's own, or a second one
            settings.terminal.line("interrupted")
            code = EXIT_INTERRUPTED
    return code


def _invoke(arguments: list[str], settings: Settings) -> int:
    from timmx_core.cli.root import Root

    root = Root()
    try:
        with root.make_context(PROGRAM, arguments, obj=settings) as ctx:
            root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        raise _as_request_error(error) from None
    return 0


def _as_request_error(error: click.ClickException) -> RequestError:
    """click's usage errors in our words."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{ctx.command_path} --help" if ctx is not None else ""
    if isinstance(error, click.NoSuchOption):
        near, elsewhere = _near_options(ctx, error.option_name), _formats_with(error.option_name)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        elif elsewhere:
            hint = f"that is an option of {' and '.join(elsewhere)}"
        return RequestError(f"no option {error.option_name}", hint)
    if isinstance(error, click.BadOptionUsage) and ctx is not None:
        hint = _usage_of(ctx, error.option_name) or hint
    message = error.format_message().rstrip(".")
    return RequestError(message[:1].lower() + message[1:], hint)


def _usage_of(ctx: click.Context, word: str) -> str:
    """As in: --input-size C H W, with spaces between."""
    for parameter in ctx.command.get_params(ctx):
        if word in parameter.opts and parameter.nargs > 1:
            return f"{word} {parameter.make_metavar(ctx)}, with spaces between"
    return ""


def _formats_with(word: str) -> list[str]:
    """The formats that have an option of their own by that name."""
    from timmx_core.plugins.manager import get_manager

    name = word.removeprefix("--").replace("-", "_")
    formats = get_manager().formats.values()
    return [f.name for f in formats if any(o.name == name for o in f.options)]


def _near_options(ctx: click.Context | None, word: str) -> list[str]:
    """The options that the help shows and that are spelt nearly so, best first."""
    if ctx is None:
        return []
    known = [
        name
        for parameter in ctx.command.get_params(ctx)
        if isinstance(parameter, click.Option) and not parameter.hidden
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    return difflib.get_close_matches(word, known, n=2)


def _report(error: Exception, settings: Settings) -> int:
    """Tell the user, and whatever reads stdout when `--json` was asked for."""
    if not isinstance(error, TimmxError):
        return _report_bug(error, settings)
    if settings.answer is not None:
        return _answer_error(error, settings.answer)
    terminal = settings.terminal
    measured = isinstance(error, VerificationError) and error.verdict and error.verdict.worst
    # Figures say more than what a converter printed that did its work.
    if error.log_tail and not settings.verbose and not measured:
        terminal.lines(error.log_tail, "  | ")
    further: dict[str, Any] = {}
    if isinstance(error, VerificationError) and error.verdict is not None:
        from timmx_core.cli.summary import verdict_lines

        for line in verdict_lines(error.verdict):
            terminal.line(line)
        further = {"verdict": error.verdict.to_json()}
    if error.exit_code == EXIT_BUG:  # of another environment, which has written the log
        terminal.error_text(f"{BUG}: {error.message}")
        terminal.labelled("hint", error.hint, "cyan")
    else:
        terminal.error(error)
    if error.log_path is not None:
        terminal.labelled("log", str(error.log_path))
    if settings.verbose and not isinstance(error, RequestError | PluginError):
        from traceback import format_exception

        terminal.lines("".join(format_exception(error)).rstrip())
    if settings.json:
        name, code = type(error).__name__, error.exit_code
        _print_error(name, error.message, error.hint, code, further)
    return error.exit_code


def _answer_error(error: TimmxError, answer: Answer) -> int:
    from timmx_core.isolation.protocol import error_to_json

    with suppress(OSError):  # the exit code is left to tell it
        answer.result({"error": error_to_json(error)})
    return error.exit_code


def _stdout_error(error: OSError) -> OutputError | None:
    """What it means where click could not print (a full disk); None for any other error."""
    frames = walk_tb(error.__traceback__)
    if all(frame.f_globals.get("__name__") != "click.utils" for frame, _ in frames):
        return None
    discard_stdout()
    return unwritable(error)


def _report_bug(error: Exception, settings: Settings) -> int:
    from timmx_core.cli.crash_log import write_crash_log

    log = write_crash_log(error)
    terminal = settings.terminal
    message = f"{type(error).__name__}: {text_of(error)}"
    if settings.verbose:
        from traceback import format_exception

        terminal.lines("".join(format_exception(error)).rstrip())
    terminal.error_text(f"{BUG}: {message}")
    hint = f"please report it with {log}" if log else "please report it with the output of -v"
    if settings.answer is not None:
        return _answer_error(TimmxError(message, hint), settings.answer)
    terminal.labelled("hint", hint, "cyan")
    if settings.json:
        _print_error("InternalError", message, hint, EXIT_BUG)
    return EXIT_BUG


def _print_error(
    kind: str, message: str, hint: str, code: int, further: Mapping[str, Any] | None = None
) -> None:
    what = {"type": kind, "message": message, "hint": hint, "exit_code": code}
    try:
        print_json({"error": what | dict(further or {})})
    except OutputError:
        return  # stderr has told it
    except BrokenPipeError:
        discard_stdout()


def _reader_gone() -> int:
    """`timmx list | head -1`: who closes the pipe has seen enough."""
    discard_stdout()
    return 0


def _complete(instruction: str) -> int:
    """Answer the shell. Whatever goes wrong there must not disturb the line being typed."""
    from click.shell_completion import shell_complete

    from timmx_core.cli.root import Root

    try:
        return shell_complete(Root(), {"obj": Settings()}, PROGRAM, COMPLETE_VARIABLE, instruction)
    except (TimmxError, click.ClickException):
        return 1


@contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Warnings that core logs appear as lines on the terminal."""
    import logging

    from timmx_core.cli.terminal import LogLines

    logger = logging.getLogger("timmx_core")
    handler = LogLines(settings.terminal)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def _signals(terminal: Terminal) -> Iterator[None]:
    """End at once when told to, with nothing left behind (see `timmx_core.process.interrupts`)."""

    def end(number: int, _: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)  # a second one must not disturb the cleaning up
        clean_up()
        if number == signal.SIGINT:
            terminal.last_line("interrupted")
        os._exit(128 + number)

    names = NAMES if current_thread() is main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # One that is ignored (nohup) stays ignored.
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    taken = {n: signal.signal(n, end) for n in numbers if signal.getsignal(n) in defaults}
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
