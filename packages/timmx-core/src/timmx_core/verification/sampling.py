"""At which positions of a large output the manifest keeps PyTorch's answer.

They are chosen blindly, which says what the whole would say wherever its signal is spread. Where
blind positions miss it, as they miss a hundred values in a frame of zeros, some of those with more
signal than the average join them: in the same blind order, so that a rounding error which moves one
of them across that line moves no other, and no more of them than give the sample as much signal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timmx_core.verification import probes
from timmx_core.verification.measure import Reference, attainable_db

if TYPE_CHECKING:
    import numpy as np

# Outputs with more values per image are kept at this many blind positions, and at no more than half
# as many others.
SAMPLE_ABOVE, SAMPLES = 4096, 2048
# No floor is above 80 dB; a sample that could bear out 100 dB is good enough for all of them.
AMPLE_DB, MARGIN_DB = 100.0, 3.0
LEAST_SHARE = 0.1  # of the whole output's signal, what blind positions must have


def sampled(reference: Reference) -> Reference:
    """The reference as the manifest keeps it: large outputs at sampled positions only."""
    import numpy as np

    size = reference.values.shape[1]
    if reference.positions is not None or size <= SAMPLE_ABOVE:
        return reference
    positions = np.unique(probes.positions(size, SAMPLES))
    blind = _at(reference, positions)
    if _suffices(blind, reference):
        return blind
    return _at(reference, np.union1d(positions, _telling(reference, positions)))


def _at(reference: Reference, positions: np.ndarray) -> Reference:
    return Reference(
        reference.name,
        reference.shape,
        reference.values[:, positions],
        positions,
        reference.classes,
        reference.layout,
    )


def _suffices(blind: Reference, whole: Reference) -> bool:
    """Whether a file would be judged by the sample as it is by the whole."""
    if not math.isfinite(whole.signal):
        return not math.isfinite(blind.signal)
    enough = min(AMPLE_DB, attainable_db(whole.values) - MARGIN_DB)
    return attainable_db(blind.values) >= enough and blind.signal >= whole.signal * LEAST_SHARE


def _telling(reference: Reference, blind: np.ndarray) -> np.ndarray:
    """Further positions, int64: those that the blind ones lack.

    Of an output with values that are not finite, one of them.
    """
    import numpy as np

    wide = reference.values.astype(np.float64)
    order = np.argsort(probes.keys(wide.shape[1]), kind="stable")
    broken = np.flatnonzero(~np.isfinite(wide[:, order]).all(0))
    if len(broken):
        return order[broken[:1]]
    variance = ((wide - wide.mean(0)) ** 2).mean(0)
    loud: np.ndarray = order[variance[order] >= variance.mean()]
    loud = loud[~np.isin(loud, blind)][: SAMPLES // 2]
    sums = variance[blind].sum() + np.cumsum(variance[loud])
    counts = len(blind) + np.arange(1, len(loud) + 1)
    enough = sums >= variance.mean() * counts
    return loud[: int(np.argmax(enough)) + 1 if enough.any() else len(loud)]
