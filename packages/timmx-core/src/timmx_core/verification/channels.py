"""Whether a part of an output is lost, which the figure of the whole output can hide.

Four box coordinates in pixels drown eighty scores of a thousandth; one channel of a transformer
that is 300 times the others drowns them all. So an output is also rated slice by slice: each
channel, class or coordinate along each of its dimensions.

A slice of an honest file is as noisy as the others, or as much noisier as it is larger. The noise
to expect of a slice is taken from the medians over all slices, which some lost ones do not move.
A slice whose signal stands far above that noise must come through; one that does not is drowned by
the precision as a whole, which the figure of the whole output judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FINE_DB = 20.0
"""From this floor up, a precision is fine enough to ask for digits of each slice. Below it, small
probabilities hold no digit that is right, and a slice must only not be lost."""
FINE_SHARE, COARSE_SHARE = 0.5, 0.2
"""Of a floor in decibels, what a slice must reach: 40 dB of 80, 15 of 30, but 1 of 5. One that is
lost has 0 dB or less."""
CLEARANCE_DB = 20.0
"""How far beyond its floor a slice must stand above the noise to expect before it counts. Of honest
files the noise of one class over eight probes lies up to 16 dB above what is expected of it."""


WEIGHTY = 1e-3
"""Of the average signal, what a slice must have to count among most of them."""
FLAT = 1e-2
"""Of its signal, what a slice that still depends on the image gives at least."""


@dataclass(frozen=True)
class Lowest:
    """The slice that came through worst."""

    snr_db: float  # of the slice
    floor_db: float  # what it has to reach
    place: str  # "channel 7 of 384", "most channels"

    @property
    def lost(self) -> bool:
        """Whether it did not come through."""
        return self.snr_db < self.floor_db


@dataclass(frozen=True)
class Powers:
    """Of each position of an output, over the probes: float64 (positions,)."""

    signal: np.ndarray  # variance of the reference
    noise: np.ndarray  # mean squared difference
    power: np.ndarray  # mean square of the reference
    answer: np.ndarray  # variance of what the file gave


def slice_floor(floor_db: float) -> float | None:
    """What a slice must reach where the output must reach `floor_db`.

    None where the noise may exceed the signal anyway.
    """
    if floor_db <= 0:
        return None
    return floor_db * (FINE_SHARE if floor_db >= FINE_DB else COARSE_SHARE)


def lowest(
    powers: Powers,
    shape: tuple[int, ...],
    positions: np.ndarray | None,
    floor_db: float,
    rounding: float,
) -> Lowest | None:
    """The worst slice along any dimension of an output.

    :param shape: of one image's output, without N.
    :param positions: int64 into the flattened output, of those that are rated; None: all.
    :param floor_db: of the whole output.
    :param rounding: relative rounding error of a network in fp32; a slice that varies by less
        relative to its size says nothing.
    :return: None where no slice can be rated.
    """
    import numpy as np

    floor = slice_floor(floor_db)
    if floor is None:
        return None
    where = np.arange(len(powers.signal)) if positions is None else positions
    found = [
        worst
        for axis, index in _axes(where, shape)
        for worst in _along(_pooled(powers, index, shape[axis]), floor, floor_db, rounding)
    ]
    return min(found, key=lambda worst: worst.snr_db, default=None)


def _axes(where: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Each dimension with more than one slice, and the slice that each position lies in."""
    stride = 1
    for axis in reversed(range(len(shape))):
        if shape[axis] > 1:
            yield axis, (where // stride) % shape[axis]
        stride *= shape[axis]


@dataclass(frozen=True)
class _Slices:
    """The powers of the slices along one dimension."""

    numbers: np.ndarray  # which slices hold positions that are rated
    count: int  # slices in all
    signal: np.ndarray
    noise: np.ndarray
    power: np.ndarray
    answer: np.ndarray


def _pooled(powers: Powers, index: np.ndarray, count: int) -> _Slices:
    import numpy as np

    weights = np.bincount(index, minlength=count)
    (numbers,) = np.nonzero(weights)

    def mean(values: np.ndarray) -> np.ndarray:
        sums: np.ndarray = np.bincount(index, values, count)[numbers] / weights[numbers]
        return sums

    parts = (powers.signal, powers.noise, powers.power, powers.answer)
    return _Slices(numbers, count, *map(mean, parts))


def _along(slices: _Slices, floor: float, whole_floor: float, rounding: float) -> Iterator[Lowest]:
    """The worst of the slices that stand out, most of them, and those that should be constant."""
    import numpy as np

    telling = slices.signal > slices.power * rounding**2 * _ratio(floor)
    if not telling.any():
        return
    signal, noise, power = (a[telling] for a in (slices.signal, slices.noise, slices.power))
    tiny = np.finfo(np.float64).tiny
    snr = 10 * np.log10(signal / np.maximum(noise, signal * 1e-20))
    additive, relative = np.median(noise), np.median(noise / np.maximum(power, tiny))
    clear = signal >= np.maximum(additive, power * relative) * _ratio(floor + CLEARANCE_DB)
    if clear.any():
        worst = int(np.argmin(np.where(clear, snr, np.inf)))
        number = int(slices.numbers[telling][worst])
        yield Lowest(float(snr[worst]), floor, f"channel {number} of {slices.count}")
    middle = float(np.median(snr))
    weighty = signal >= WEIGHTY * signal.mean()
    flat = slices.answer[telling] < FLAT * signal
    if whole_floor >= FINE_DB and middle < floor:
        yield Lowest(middle, floor, f"half of {slices.count} channels")
    elif 2 * (flat & weighty).sum() > weighty.sum():
        # The noise to expect is that of the lost ones themselves then.
        lost = f"{int(flat.sum())} of {slices.count} channels, which ignore the image"
        yield Lowest(float(np.median(snr[flat & weighty])), floor, lost)
    yield from _constant(slices, ~telling, (additive, relative), float(np.median(signal)), floor)


def _constant(
    slices: _Slices,
    constant: np.ndarray,
    usual: tuple[float, float],
    signal: float,
    floor: float,
) -> Iterator[Lowest]:
    """The worst of the slices that are the same for every image: they have no signal of their own.

    :param usual: the noise to expect, additive and relative to a slice's power.
    :param signal: of the other slices, the median.
    """
    import numpy as np

    additive, relative = usual
    noise = np.where(constant, slices.noise, 0.0)
    expected = np.maximum(additive, slices.power * relative) * _ratio(CLEARANCE_DB)
    noise = np.where(noise > expected, noise, 0.0)
    worst = int(np.argmax(noise))
    if noise[worst] > 0.0:
        found = float(10 * np.log10(signal / noise[worst]))
        number = int(slices.numbers[worst])
        yield Lowest(found, floor, f"channel {number} of {slices.count}, which is constant")


def _ratio(decibels: float) -> float:
    return float(10.0 ** (decibels / 10.0))
