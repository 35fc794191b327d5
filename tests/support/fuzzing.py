"""How long things are fuzzed: little in every run, and as long as `TIMMX_FUZZ` examples say."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TIMMX_FUZZ", "0"))


def fuzz(examples: int) -> settings:
    """:param examples: where `TIMMX_FUZZ` says nothing."""
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not EXAMPLES,  # the same in every run of continuous integration
        suppress_health_check=list(HealthCheck),
    )


TEXT = st.text(max_size=40) | st.sampled_from(
    ["", ".", "..", "../x", "/etc/passwd", "a/../b", "\0", "\x1b[2J", "\u202e", "x" * 5000, "-"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes changed, cut out, doubled or added."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.integers(0, 16))
        kind = draw(st.sampled_from(["set", "cut", "double", "insert", "end"]))
        if kind == "set":
            new = draw(st.binary(min_size=length, max_size=length))
            changed[at : at + length] = new
        elif kind == "cut":
            del changed[at : at + length * length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = draw(st.sampled_from([b"\xff" * 9 + b"\x01", b"\0", b"PK\x05\x06"]))
        else:
            del changed[at:]
    return bytes(changed)
