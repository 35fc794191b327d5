"""Palettes of a weight: the 2^n values that stand nearest to all of its numbers.

One-dimensional k-means on the distinct values, started from quantiles: no random numbers, so the
same weight gets the same palette, and no further library.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 100


def palettize(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """A palette and what it makes of a weight.

    :return: 2^bits values in the weight's type (unused ones are zero), and the index of each
        number of the weight (uint8, flat, in C order).
    """
    flat = weight.reshape(-1)
    values, place, counts = np.unique(flat, return_inverse=True, return_counts=True)
    palette = _k_means(values.astype(np.float64), counts, 1 << bits).astype(weight.dtype)
    palette = np.unique(palette)
    nearest = _nearest(values.astype(np.float64), palette.astype(np.float64))
    table = np.zeros(1 << bits, weight.dtype)
    table[: len(palette)] = palette
    return table, nearest[place.reshape(-1)].astype(np.uint8)


def _k_means(values: np.ndarray, counts: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm on sorted distinct values with multiplicities."""
    if len(values) <= count:
        return values
    total, mass = np.cumsum(counts), np.cumsum(values * counts)
    # Between equal shares of the numbers and equal steps of the range, so that the few large
    # weights, which matter, are not left to one value.
    share = (np.arange(count) + 0.5) / count
    quantiles = values[np.searchsorted(total, share * total[-1])]
    steps = values[0] + (values[-1] - values[0]) * share
    centres = np.unique((quantiles + steps) / 2)
    for _ in range(_ROUNDS):
        borders = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], borders, [len(values)]])
        weight = np.diff(np.concatenate([[0], total])[ends])
        sums = np.diff(np.concatenate([[0.0], mass])[ends])
        moved = np.where(weight > 0, sums / np.maximum(weight, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.unique(moved)
    return centres


def _nearest(values: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return np.searchsorted((palette[1:] + palette[:-1]) / 2, values)
