"""Compute capabilities that TensorRT for RTX builds for, and what each cannot do.

As tensorrt-rtx 1.7 answers when it is asked to build; `tests/tensorrt` asks it again.
"""

from __future__ import annotations

from collections.abc import Mapping

from timmx_core.errors import RequestError

_NO_FLOAT = "it has no matrix products in float32"
_FLOAT_BETWEEN = "what int8 leaves in float32 it cannot multiply"
_NO_BF16 = "it has no bfloat16"
_NO_FP8 = "it has no 8-bit floating point"
# What of the precisions each target lacks. int8 leaves float32 between its layers.
LACKS: Mapping[str, Mapping[str, str]] = {
    "sm75": {
        "fp32": _NO_FLOAT,
        "tf32": _NO_FLOAT,
        "bf16": _NO_BF16,
        "int8": _FLOAT_BETWEEN,
        "fp8": _NO_FP8,
    },
    "sm80": {"fp8": _NO_FP8},
    "sm86": {"fp8": _NO_FP8},
    "sm89": {},
    "sm120": {},
    "sm121": {},
}


# Not without being asked for: it has one precision, not even that for every model, and an engine
# that is for it too may be four times as large.
ON_REQUEST = frozenset({"sm75"})


def able(precision: str) -> tuple[str, ...]:
    """The targets that have a precision."""
    return tuple(name for name, lacks in LACKS.items() if precision not in lacks)


def parse(text: str | None, precision: str) -> tuple[str, ...]:
    """The targets of `--target`; without it all from Ampere on that have the precision.

    :raises RequestError: names the one that cannot be had, and why.
    """
    if text is None:
        return tuple(name for name in able(precision) if name not in ON_REQUEST)
    names = [_plain(part) for part in text.split(",")]
    for name in names:
        if name not in LACKS:
            raise RequestError(
                f"TensorRT-RTX builds no engines for {name!r}",
                f"there are: {', '.join(LACKS)}; timmx tensorrt builds on the GPU itself",
            )
        if precision in LACKS[name]:
            raise RequestError(
                f"--target {name} has no --precision {precision}: {LACKS[name][precision]}",
                f"--precision {precision} goes with {', '.join(able(precision))}",
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise RequestError(f"--target names {twice} twice")
    return tuple(sorted(names, key=list(LACKS).index))


def _plain(word: str) -> str:
    """A compute capability is also written 8.6, 86, and sm_86."""
    word = word.strip().lower().replace("sm_", "sm")
    number = word.replace(".", "", 1)
    return f"sm{number}" if number.isdecimal() else word
