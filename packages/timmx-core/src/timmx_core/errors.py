"""Errors that a user can act on: what happened, what to do next, and the exit code it gives.

| exit code | error               | meaning                                                       |
|----------:|---------------------|---------------------------------------------------------------|
|         2 | `RequestError`      | usage: a bad option, an unsupported combination               |
|         3 | `PluginError`       | a plugin or a library that it needs is missing or broken      |
|         4 | `IsolationError`    | an isolated environment could not be made or does not answer  |
|         5 | `ModelError`        | unknown model; checkpoint missing, unsafe or not fitting      |
|         6 | `ExportError`       | the converter cannot do it, or failed                         |
|         7 | `VerificationError` | the file is wrong, or nothing could be concluded              |
|         8 | `OutputError`       | target exists, disk full, no permission                       |
|         9 | `ArtifactError`     | a file that `inspect` or `verify` cannot read                 |

An unexpected bug exits with 70, Ctrl-C with 130, SIGTERM with 143.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timmx_core.results import Verdict

EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class TimmxError(Exception):
    """Something the user can act on. `message` says what happened, `hint` what to do next.

    .. versionadded:: 0.1
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, hint: str = "") -> None:
        """What happened, and what to do next.

        :param message: in lower case, without a full stop; `hint` likewise.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log_path: Path | None = None  # where the noise of the failed step was kept
        self.log_tail = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, bounded, for a message of one line.

    :param most: letters.

    .. versionadded:: 0.1
    """
    text = text_of(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:most]


def text_of(error: BaseException) -> str:
    """An error's text; empty where that itself raises, even `SystemExit`.

    .. versionadded:: 0.1
    """
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 (whatever another's code does there)
        return ""


class RequestError(TimmxError):
    """The request makes no sense or is not supported.

    .. versionadded:: 0.1
    """

    exit_code = 2


class PluginError(TimmxError):
    """A plugin was not found, failed to load, is incompatible, or clashes with another.

    .. versionadded:: 0.1
    """

    exit_code = 3


class MissingDependency(PluginError):
    """A library that the format needs is not installed here, or does not work here.

    .. versionadded:: 0.1
    """


class IsolationError(TimmxError):
    """An isolated environment could not be made, is broken, or speaks another protocol.

    .. versionadded:: 0.1
    """

    exit_code = 4


class ModelError(TimmxError):
    """The model is unknown, or its weights are missing, unreadable, unsafe or do not fit.

    .. versionadded:: 0.1
    """

    exit_code = 5


class ExportError(TimmxError):
    """The converter does not support the model, or failed on it.

    .. versionadded:: 0.1
    """

    exit_code = 6


class VerificationError(TimmxError):
    """The verdict on a file is `failed` or `inconclusive`.

    .. versionadded:: 0.1
    """

    exit_code = 7

    def __init__(self, message: str, hint: str = "", verdict: Verdict | None = None) -> None:
        super().__init__(message, hint)
        self.verdict = verdict  # None where no file was judged

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint, self.verdict)


class CannotRunHere(VerificationError):
    """This machine lacks the runtime or the device: the verdict is `not verifiable here`.

    .. versionadded:: 0.1
    """


class OutputError(TimmxError):
    """The result cannot be put where it should go.

    .. versionadded:: 0.1
    """

    exit_code = 8


class ArtifactError(TimmxError):
    """A file cannot be read as the artifact that it claims to be.

    .. versionadded:: 0.1
    """

    exit_code = 9
