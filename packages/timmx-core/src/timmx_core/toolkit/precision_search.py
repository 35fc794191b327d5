"""As little of a model in full precision as will do, found by trying.

Which operations a lower precision spoils depends on the weights, so no list can say it. A format
names circles of operations that stay as they are, from none to all, and the first that comes near
enough to PyTorch on the probes is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Circle = TypeVar("Circle")
Model = TypeVar("Model")

MARGIN_DB = 1.0
"""Beyond the floor, so that another order of summation cannot fail the file."""


@dataclass(frozen=True)
class Attempt(Generic[Circle, Model]):
    """One conversion, and how near it came.

    .. versionadded:: 0.1
    """

    kept: Circle  # what stayed in full precision
    snr_db: float  # of the model against PyTorch
    model: Model  # as converted


def settle(
    circles: Iterable[Circle],
    convert: Callable[[Circle], Model],
    rate: Callable[[Model], float],
    floor_db: float,
) -> Attempt[Circle, Model]:
    """The first conversion that is good enough; else the best.

    .. versionadded:: 0.1

    :param circles: what to keep in full precision, from the least to the most; at least one.
    :param convert: makes a model that keeps it.
    :param rate: the signal-to-noise ratio of a converted model, as by `Context.snr_db`.
    """
    best: Attempt[Circle, Model] | None = None
    for kept in circles:
        model = convert(kept)
        attempt = Attempt(kept, rate(model), model)
        if attempt.snr_db >= floor_db + MARGIN_DB:
            return attempt
        if best is None or attempt.snr_db > best.snr_db:
            best = attempt
    assert best is not None
    return best
