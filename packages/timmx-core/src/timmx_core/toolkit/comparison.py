"""How near a file comes, for a format that tries several conversions and keeps the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from timmx_core.verification.measure import CAP_DB, decibels
from timmx_core.verification.worker import run_probes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FLOAT_FLOOR_DB", "distance_db", "layers_are_nearer", "run_probes"]

FLOAT_FLOOR_DB = 80.0
"""What a file in float32 has to reach, and the float file from which a lower precision is made."""

WORTH_DB = 1.0
"""By how much a file must come nearer for what stands between its layers to be left in float."""


def distance_db(want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Signal over noise between two files' answers, over the worst output.

    .. versionadded:: 0.1
    """
    import numpy as np

    worst = CAP_DB
    for a, b in zip(want, got, strict=True):
        wide = a.astype(np.float64)
        # Of a single image nothing varies but over its own positions.
        centre = wide.mean(0) if len(wide) > 1 else wide.mean()
        noise = float(((wide - b) ** 2).mean())
        if not math.isfinite(noise):
            return -CAP_DB
        worst = min(worst, decibels(float(((wide - centre) ** 2).mean()), noise))
    return worst


def layers_are_nearer(everything_db: float, layers_db: float) -> bool:
    """Whether 8 bits are better left to the layers alone.

    Integers throughout are faster, and so they are kept unless they cost more than 1 dB.

    .. versionadded:: 0.1

    :param everything_db: of the file that is in integers throughout, by `distance_db`.
    :param layers_db: of the file in which only layers with weights are.
    """
    return layers_db > everything_db + WORTH_DB
