"""Batches that a port takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from timmx_core.backend import Batch, TensorSpec

if TYPE_CHECKING:
    import numpy as np


def least_batch(port: TensorSpec) -> int:
    """The smallest batch that a port takes, which a static one has.

    .. versionadded:: 0.1
    """
    n = port.shape[0]
    return n if isinstance(n, int) else n[0]


def bounded(batch: Batch, most: int) -> Batch:
    """The same batch with an end to it, for what is planned for a largest one.

    .. versionadded:: 0.1

    :param most: images, where the user asked for no end; not fewer than the best batch.
    """
    least, best, greatest = batch
    return (least, best, max(most, best) if greatest is None else greatest)


def in_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Batches of exactly `size` images; the last is filled up with images from the front.

    .. versionadded:: 0.1
    """
    import numpy as np

    for start in range(0, len(images), size):
        yield images[np.arange(start, start + size) % len(images)]
