"""From what was given to a validated request; the same for command line and Python API."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Backend, Batch, ExportRequest, Option, Precision
from timmx_core.errors import RequestError
from timmx_core.request.model_argument import check_type
from timmx_core.request.shared_options import (
    CALIBRATION_OPTIONS,
    MOST_CROP,
    PRECISION,
    SHARED_IMPLIES,
    SHARED_OPTIONS,
)

if TYPE_CHECKING:
    import torch

MOST_BATCH = 2**31 - 1  # what a dimension of a file may be; how much is run is bounded later


def options_of(backend: Backend) -> tuple[Option, ...]:
    """Every option of a format, in the order of the help: shared, precision, the format's own.

    What the format refuses is left out, and so are calibration options where no precision of the
    format is calibrated.
    """
    calibrated = any(p.calibrated for p in backend.precisions)
    shared = [
        option
        for option in SHARED_OPTIONS
        if option.name not in backend.refuses
        and (calibrated or option.name not in CALIBRATION_OPTIONS)
    ]
    return (*shared, precision_option(backend), *backend.options)


def shared_option(name: str) -> Option:
    """One of the options that every format shares."""
    return next(option for option in SHARED_OPTIONS if option.name == name)


def precision_option(backend: Backend) -> Option:
    """`--precision` with the words that the format knows."""
    words = "; ".join(
        f"{p.name}: weights {p.weights}, activations {p.activations}" for p in backend.precisions
    )
    return Option(
        "precision",
        "str",
        f"Numbers in the file ({words}).",
        backend.precisions[0].name,
        choices=tuple(p.name for p in backend.precisions),
        group=PRECISION,
    )


def make_request(
    backend: Backend, model: str | torch.nn.Module, given: Mapping[str, Any]
) -> ExportRequest:
    """Validate what was asked for, fill in the defaults.

    :raises RequestError: for an unknown option, a value that makes no sense, or a combination
        that contradicts itself, or a model that is none.
    """
    check_type(model)
    for name in given:
        if name in backend.refuses:
            raise RequestError(
                f"{backend.name} does not support {flag(name)}: {backend.refuses[name]}"
            )
    known = {option.name: option for option in options_of(backend)}
    values = {name: option.default for name, option in known.items()}
    # A refused option has its default for core; the format never sees another value.
    values |= {o.name: o.default for o in SHARED_OPTIONS if o.name not in known}
    for name, value in given.items():
        if name not in known:
            raise RequestError(
                f"{backend.name} has no option {flag(name)}", did_you_mean(name, known)
            )
        values[name] = coerce(known[name], value)
    _imply(values, given, backend.implies)
    _imply(values, given, SHARED_IMPLIES)
    batch = _batch(values)
    _check_combinations(values)
    own = {option.name for option in backend.options}
    precision = _precision(backend, values.pop("precision"))
    precision = _lowered(backend, precision, values["floor"])
    _check_calibration(backend, precision, values, given)
    _check_precisions(backend, precision, given)
    running = {option.name for option in backend.options if option.phase == "run"}
    backend.check_run_options({name: values[name] for name in running})
    return ExportRequest(
        model=model,
        format=backend.name,
        precision=precision,
        shared={name: value for name, value in values.items() if name not in own},
        options={name: value for name, value in values.items() if name in own},
        batch=batch,
    )


def run_options(backend: Backend, given: Mapping[str, Any]) -> dict[str, Any]:
    """The format's options of phase "run", defaults filled in.

    :raises RequestError: for one that the format does not have, or a value that exists nowhere.
    """
    known = {option.name: option for option in backend.options if option.phase == "run"}
    for name in given:
        if name not in known:
            raise RequestError(f"{backend.name} has no option {flag(name)}")
    values = {name: option.default for name, option in known.items()}
    values |= {name: coerce(known[name], value) for name, value in given.items()}
    backend.check_run_options(values)
    return values


def flag(name: str) -> str:
    """ "input_size" as the command line spells it."""
    return "--" + name.replace("_", "-")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest option; empty where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(flag(n) for n in near)}?" if near else ""


def coerce(option: Option, value: Any) -> Any:
    """A value in the type that the option declares.

    :raises RequestError: where it is of another type, out of range, or not among the choices.
    """
    if value is None:
        return option.default
    if option.multiple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            value = (value,)
        return tuple(_coerce_one(option, item) for item in value)
    return _coerce_one(option, value)


def _coerce_one(option: Option, value: Any) -> Any:
    try:
        result = CONVERTERS[option.type](value)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{flag(option.name)} wants {_wants(option)}, not {value!r}") from None
    if option.choices and result not in option.choices:
        near = difflib.get_close_matches(str(result), option.choices, n=1)
        raise RequestError(
            f"{flag(option.name)} is one of {', '.join(option.choices)}, not {value!r}",
            f"did you mean {near[0]}?" if near else "",
        )
    numbers = result if isinstance(result, tuple) else (result,)
    if option.arity is not None and len(numbers) != option.arity:
        raise RequestError(f"{flag(option.name)} wants {_wants(option)}, not {value!r}")
    if option.minimum is not None and any(n < option.minimum for n in numbers):
        shown = " ".join(str(n) for n in numbers)
        raise RequestError(f"{flag(option.name)} is at least {option.minimum:g}, not {shown}")
    return result


def _wants(option: Option) -> str:
    kind = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "str": "a word",
        "path": "a path",
        "ints": "whole numbers",
        "floats": "numbers",
    }[option.type]
    if option.arity is not None:
        return f"{option.arity} {kind} ({option.metavar})"
    return f"{kind} ({option.metavar})" if option.metavar else kind


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> str:
    # A str, so that a request is JSON-able.
    return str(Path(value))


def _sequence(value: Any, item: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    if not isinstance(value, Sequence) and not hasattr(value, "__iter__"):
        raise TypeError
    result = tuple(item(v) for v in value)
    if not result:
        raise ValueError
    return result


CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "path": _path,
    "ints": lambda value: _sequence(value, _int),
    "floats": lambda value: _sequence(value, _float),
}


def _imply(
    values: dict[str, Any], given: Mapping[str, Any], implies: Mapping[str, Mapping[str, Any]]
) -> None:
    """Set what follows from other options.

    :raises RequestError: the opposite was given.
    """
    for name, implied in implies.items():
        if not values[name]:
            continue
        for other, value in implied.items():
            if other in given and values[other] != value:
                raise RequestError(
                    f"{flag(name)} means {_given(other, value)}, and not "
                    f"{_given(other, values[other])}"
                )
            values[other] = value


def _given(name: str, value: object) -> str:
    """As it is typed: `--softmax`, `--no-softmax`, `--precision int8`."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {value}"


def _batch(values: Mapping[str, Any]) -> Batch:
    for name in ("batch_size", "batch_min", "batch_opt", "batch_max"):
        if (values[name] or 0) > MOST_BATCH:
            raise RequestError(f"{flag(name)} is at most {MOST_BATCH:,}, not {values[name]:,}")
    size = values["batch_size"]
    if not values["dynamic_batch"]:
        return (size, size, size)
    least = values["batch_min"] or 1
    most = values["batch_max"]
    if values["batch_opt"] and size not in (1, values["batch_opt"]):
        raise RequestError(
            f"--batch-size {size} and --batch-opt {values['batch_opt']} disagree",
            "a dynamic batch is tuned for either; the largest is --batch-max",
        )
    opt = values["batch_opt"] or max(least, size)
    if most is not None and not least < most:
        raise RequestError(
            f"--batch-min {least} is not less than --batch-max {most}",
            "a single batch size is --batch-size",
        )
    if opt < least or (most is not None and opt > most):
        name = "batch_opt" if values["batch_opt"] else "batch_size"
        raise RequestError(f"{flag(name)} {opt} is not between --batch-min and --batch-max")
    return (least, opt, most)


def _check_combinations(values: Mapping[str, Any]) -> None:
    size, chans = values["input_size"], values["in_chans"]
    if size is not None and chans is not None and size[0] != chans:
        raise RequestError(
            f"--in-chans {chans} and --input-size {' '.join(map(str, size))} disagree",
            "the first number of --input-size is the number of channels",
        )
    if values["features"] and values["embedding"]:
        raise RequestError("--features and --embedding exclude each other")
    other = "--features" if values["features"] else "--embedding" if values["embedding"] else None
    if other:
        for name in ("softmax", "labels", "num_classes"):
            if values[name]:
                raise RequestError(f"{flag(name)} is about classes, and {other} gives none")
    _check_image(values, chans or (size[0] if size else None))
    if not values["verify"]:
        for name in (
            "require_verified",
            "accept_inconclusive",
            "probe_data",
            "keep_failed",
            "floor",
        ):
            if values[name]:
                raise RequestError(f"{flag(name)} makes no sense with --no-verify")


def _check_image(values: Mapping[str, Any], chans: int | None) -> None:
    for name in ("mean", "std"):
        if values[name] and chans and len(values[name]) not in (1, chans):
            raise RequestError(f"{flag(name)} has {len(values[name])} values for {chans} channels")
    if values["std"] and min(values["std"]) <= 0:
        raise RequestError("--std must be above zero")
    if values["crop_pct"] is not None and not 0 < values["crop_pct"] <= MOST_CROP:
        raise RequestError(f"--crop-pct is above 0 and at most {MOST_CROP:g}")


def _precision(backend: Backend, name: str) -> Precision:
    return next(p for p in backend.precisions if p.name == name)


def _lowered(backend: Backend, precision: Precision, floor_db: float | None) -> Precision:
    """The precision with the floor that was asked for.

    :raises RequestError: no floor of the format is above it, and so it would change nothing.
    """
    if floor_db is None:
        return precision
    highest = max(p.floor_db for p in backend.precisions)
    if floor_db >= highest:
        raise RequestError(
            f"--floor {floor_db:g} lowers nothing: the highest floor of {backend.name} is "
            f"{highest:g} dB"
        )
    return replace(precision, floor_db=min(precision.floor_db, floor_db))


def _check_precisions(backend: Backend, precision: Precision, given: Mapping[str, Any]) -> None:
    for option in backend.options:
        wanted = option.precisions
        if wanted and precision.name not in wanted and given.get(option.name) is not None:
            word = option.name if given[option.name] is not False else f"no_{option.name}"
            raise RequestError(
                f"{flag(word)} makes no sense with --precision {precision.name}",
                f"it is for --precision {' or '.join(wanted)}",
            )


def _check_calibration(
    backend: Backend, precision: Precision, values: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    # Looked at one by one: what was given for others may be an array, which is neither.
    asked = sorted(n for n in CALIBRATION_OPTIONS & set(given) if given[n] not in (None, False))
    if not precision.calibrated:
        if asked:
            raise RequestError(
                f"{flag(asked[0])} makes no sense with --precision {precision.name}",
                f"calibrated precisions of {backend.name}: "
                + (", ".join(p.name for p in backend.precisions if p.calibrated) or "none"),
            )
        return
    for name in ("calibration_data", "calibration_preprocessed"):
        if values["random_calibration"] and values[name]:
            raise RequestError(f"--random-calibration and {flag(name)} exclude each other")
    if not values["random_calibration"] and not values["calibration_data"]:
        raise RequestError(
            f"--precision {precision.name} needs images to calibrate with",
            "give --calibration-data DIR, or accept poor accuracy with --random-calibration",
        )
