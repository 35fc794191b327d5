"""What is shown of a converter's output when an export fails."""

from __future__ import annotations

import os

from timmx_core.noise import Noise


def test_progress_bars_tell_nothing_of_a_failure(capfd: object) -> None:
    with Noise() as noise:
        os.write(2, b"the operator is unknown\n")
        os.write(2, b"\rRunning:  50%|#####     | 5/10 [00:01<00:00]\rRunning: 100%|##########|\n")
        tail = noise.tail()
    assert tail == "the operator is unknown"
