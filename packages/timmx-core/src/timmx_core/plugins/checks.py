"""What a plugin's `Backend` must look like before core offers it as a format."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

from timmx_core.backend import FORMAT_GROUP, Backend, Option, OptionType, Precision, Transform
from timmx_core.errors import RequestError
from timmx_core.request import options as option_data
from timmx_core.request.shared_options import GROUPS, SHARED_OPTIONS

# Words of the command line, taken by core now or later: no format may be called like one.
RESERVED_WORDS = frozenset(
    {
        "bench", "compare", "completion", "config", "diagnose", "doctor", "eval", "export",
        "formats", "help", "info", "inspect", "list", "pick", "plugins", "run", "run-all", "serve",
        "sweep", "verify",
    }
)  # fmt: skip

# Arguments of `timmx_core.export` and options of every command: no option may be called like one.
RESERVED_OPTIONS = frozenset(
    {"format", "help", "json", "manager", "model", "precision", "reporter", "verbose", "version"}
)
RESERVED_SHORTS = frozenset({"-h", "-v", "-V", "-o"})

FORMAT_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
OPTION_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
SHORT_NAME = re.compile(r"-[a-zA-Z]")


class InvalidBackendError(Exception):
    """What a plugin returned is no usable format; the message says what is wrong with it."""


def check_backend(backend: object) -> Backend:
    """The same object, as a Backend that core can offer.

    :raises InvalidBackendError: with the first thing that is wrong.
    """
    if not isinstance(backend, Backend):
        what = "a class" if isinstance(backend, type) else type(backend).__name__
        raise InvalidBackendError(f"timmx_backends gave {what} and not an instance of Backend")
    name = getattr(backend, "name", None)
    if not isinstance(name, str) or not FORMAT_NAME.fullmatch(name):
        raise InvalidBackendError(
            f"format name {name!r} is not made of lowercase letters, digits and hyphens"
        )
    if name in RESERVED_WORDS:
        raise InvalidBackendError(f"format name {name!r} is a word of timmx itself")
    try:
        _check_facts(backend)
        _check_precisions(backend)
        _check_options(backend)
    except InvalidBackendError as error:
        raise InvalidBackendError(f"format {name}: {error}") from None
    return backend


def _check_facts(backend: Any) -> None:
    help_ = getattr(backend, "help", None)
    if not isinstance(help_, str) or not help_.strip() or "\n" in help_.strip():
        raise InvalidBackendError("help is not one line of text")
    suffixes = getattr(backend, "suffixes", None)
    if not isinstance(suffixes, tuple) or not suffixes:
        raise InvalidBackendError("suffixes is not a tuple with at least one suffix")
    for suffix in (
        *suffixes,
        *backend.companion_suffixes,
        *backend.hashed_companion_suffixes,
    ):
        if not isinstance(suffix, str) or not re.fullmatch(r"\.[^/\\\s]+", suffix):
            raise InvalidBackendError(f"suffix {suffix!r} does not begin with a dot")
    if not set(backend.folder_suffixes) <= set(suffixes):
        raise InvalidBackendError(f"folder_suffixes {backend.folder_suffixes} are not in suffixes")
    for name in backend.derives:
        if not FORMAT_NAME.fullmatch(name) or name == backend.name:
            raise InvalidBackendError(f"derives from {name!r}, which is no other format's name")
    unknown: set[str] = set(backend.absorbs) - set(get_args(Transform))
    if unknown:
        raise InvalidBackendError(f"absorbs {sorted(unknown)}, which is no transform of core")
    refusable = {option.name for option in SHARED_OPTIONS}
    unknown = set(backend.refuses) - refusable
    if unknown:
        raise InvalidBackendError(f"refuses {sorted(unknown)}, which is no shared option")


def _check_precisions(backend: Any) -> None:
    precisions = getattr(backend, "precisions", None)
    if not isinstance(precisions, tuple) or not precisions:
        raise InvalidBackendError("precisions is not a tuple with at least one Precision")
    for precision in precisions:
        if not isinstance(precision, Precision):
            raise InvalidBackendError(f"precision {precision!r} is no Precision")
        if not math.isfinite(precision.floor_db):
            raise InvalidBackendError(f"precision {precision.name}: its floor is no number of dB")
    names = [precision.name for precision in precisions]
    if len(set(names)) < len(names):
        raise InvalidBackendError("two precisions have the same name")


def _check_options(backend: Any) -> None:
    taken = {option.name for option in SHARED_OPTIONS} | RESERVED_OPTIONS
    negations = {
        f"no_{option.name}"
        for option in (*SHARED_OPTIONS, *backend.options)
        if isinstance(option, Option) and option.default is True
    }
    shorts = set(RESERVED_SHORTS)
    own: set[str] = set()
    for option in backend.options:
        if not isinstance(option, Option):
            raise InvalidBackendError(f"option {option!r} is no Option")
        if not OPTION_NAME.fullmatch(str(option.name)):
            raise InvalidBackendError(
                f"option name {option.name!r} is not made of lowercase letters, digits and single "
                "underscores"
            )
        if option.name in taken | negations:
            raise InvalidBackendError(f"option {option.name!r} is one of core's own")
        if option.name in own:
            raise InvalidBackendError(f"two options are called {option.name!r}")
        if option.short is not None and (
            not SHORT_NAME.fullmatch(option.short) or option.short in shorts
        ):
            raise InvalidBackendError(f"option {option.name}: {option.short!r} is not free")
        own.add(option.name)
        if option.short:
            shorts.add(option.short)
        _check_option(option)
        unknown = set(option.precisions) - {p.name for p in backend.precisions}
        if unknown:
            raise InvalidBackendError(
                f"option {option.name} is for {sorted(unknown)}, which is no precision of its own"
            )


def _check_option(option: Any) -> None:
    if option.type not in get_args(OptionType):
        raise InvalidBackendError(f"option {option.name}: unknown type {option.type!r}")
    if option.phase not in ("export", "run"):
        raise InvalidBackendError(f"option {option.name}: unknown phase {option.phase!r}")
    if option.group not in (FORMAT_GROUP, *GROUPS):
        raise InvalidBackendError(f"option {option.name}: unknown group {option.group!r}")
    if not isinstance(option.help, str) or not option.help.strip():
        raise InvalidBackendError(f"option {option.name} has no help")
    if option.arity is not None and (option.type not in ("ints", "floats") or option.arity < 1):
        raise InvalidBackendError(f"option {option.name}: an arity is for lists of numbers")
    if option.multiple and (option.type == "bool" or option.arity is not None):
        raise InvalidBackendError(f"option {option.name}: it cannot be given several times")
    if option.choices and option.type != "str":
        raise InvalidBackendError(f"option {option.name}: choices are for the type str")
    if option.default is not None:
        try:
            option_data.coerce(option, option.default)
        except RequestError as error:
            problem = f"option {option.name}: bad default: {error.message}"
            raise InvalidBackendError(problem) from None
