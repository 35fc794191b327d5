"""JSON from files that nobody vouches for: bounded, and with one meaning only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

MOST_DEPTH = 32
# Brackets, braces and commas: what a parser makes objects of, at up to 100 bytes each. Labels of
# 21,000 classes have some 100,000.
MOST_PARTS = 2_000_000
MOST_DIGITS = 400


class BadJson(ValueError):
    """What is wrong, as text."""


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON.

    Python's own parser takes more than JSON: NaN, infinities (1e999, too), a name twice in one
    object, halves of surrogate pairs.

    :raises BadJson: it is not JSON, or nested or long beyond reason.
    """
    parts = sum(data.count(character) for character in (b",", b"[", b"{"))
    if parts > MOST_PARTS:
        raise BadJson(f"more than {MOST_PARTS} values")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise BadJson("nested too deeply") from None
    except BadJson:
        raise
    except ValueError as error:
        raise BadJson(str(error)[:80]) from None
    _check_depth(content)
    _check_text(data)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadJson("a name stands twice in one object")
    return result


def _constant(word: str) -> NoReturn:
    raise BadJson(f"{word} is no number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadJson(f"{text[:20]} is beyond all bounds")
    return value


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise BadJson(f"a number of {len(text)} digits")
    return int(text)


def _check_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise BadJson("nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (item for item in inner if isinstance(item, (dict, list)))


def _check_text(data: bytes) -> None:
    """Halves of surrogate pairs, which no text can hold, come from escapes alone."""
    if b"\\ud" not in data.lower():
        return
    try:
        # The escapes of a pair become one character, and a half cannot be encoded.
        json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadJson("half of a surrogate pair") from None
