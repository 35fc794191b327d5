"""The measure: signal over noise in decibels, which an output that ignores its input cannot pass.

Over the probes, the signal is the variance of the reference, the noise the mean squared
difference. An output that does not depend on the input has noise of at least the signal, so it
scores 0 dB or less, whatever its cosine with the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from timmx_core.results import Measurement
from timmx_core.verification import channels

if TYPE_CHECKING:
    import numpy as np

CAP_DB = 200.0  # of a bit-exact file
# Relative rounding error of a whole network in fp32: some 2^4 units in the last place.
ROUNDING = 2.0**-20
# An answer whose error is more than this part of what sets its image apart may be another image's,
# and is where its distance to that one's reference is less than this part of that to its own.
FAR, NEARER = 0.5, 0.5
# Why nothing can be concluded, whatever the file gives.
NOT_FINITE = "PyTorch itself gives NaN or infinite values"
CONSTANT = "PyTorch's output is the same for every probe, which says nothing of the file"


@dataclass(frozen=True)
class Reference:
    """One output of PyTorch over all probes; possibly only at sampled positions of each."""

    name: str
    shape: tuple[int, ...]  # of one image's output, without N
    values: np.ndarray  # (probes, positions) float32
    positions: np.ndarray | None  # int64 into the flattened output; None: all of them
    classes: bool = False  # logits or probabilities: top-1 and top-5 mean something
    layout: str = ""  # as PyTorch gives it; a file may give "NHWC" where this is "NCHW"

    @property
    def signal(self) -> float:
        """Variance over the probes, averaged over positions; NaN where a value is not finite."""
        return float(_deviation(self.values))


def _deviation(values: np.ndarray) -> float:
    import numpy as np

    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        return math.nan
    return float(((wide - wide.mean(0)) ** 2).mean()) if wide.size else 0.0


def attainable_db(values: np.ndarray) -> float:
    """The SNR of an answer that differs from these by rounding alone.

    :param values: finite float32 (probes, positions).
    """
    return decibels(_deviation(values), _power(values) * ROUNDING**2)


def _power(values: np.ndarray) -> float:
    import numpy as np

    return float((values.astype(np.float64) ** 2).mean()) if values.size else 0.0


def measure(
    reference: Reference, got: np.ndarray, batch: int, floor_db: float, comparison: str
) -> Measurement:
    """Compare one output over all probes with the reference.

    :param got: (rows, *shape) as the file gave it, at least as many rows as there are probes: row
        i answers probe i modulo their number. Every row counts; the worst run over all probes is
        the figure.
    """
    import numpy as np

    base = _Base(comparison, reference.name, batch, floor_db)
    if got.shape[1:] != reference.shape:
        return base.fail(
            f"shape {show_shape(got.shape[1:])} instead of {show_shape(reference.shape)}"
        )
    if len(got) < len(reference.values):
        return base.fail(f"{len(got)} results for {len(reference.values)} probes")
    if not np.issubdtype(got.dtype, np.floating):
        return base.fail(f"dtype {got.dtype} instead of float32")
    if not np.isfinite(reference.values).all():
        return base.rated("inconclusive", NOT_FINITE)
    flat = got.reshape(len(got), -1)
    if not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat)).sum())
        return base.fail(f"{bad} of {flat.size} values are NaN or infinite")
    if reference.positions is not None:
        flat = flat[:, reference.positions]
    with np.errstate(over="ignore", invalid="ignore"):  # of float64 near the largest there is
        return min(_by_run(base, reference, flat), key=_margin)


def _by_run(base: _Base, reference: Reference, flat: np.ndarray) -> Iterator[Measurement]:
    """Each run over all probes by itself, so that one bad row is not averaged away in many.

    The last run ends with the last row, and may share rows with the one before.
    """
    import numpy as np

    count = len(reference.values)
    for start in dict.fromkeys((*range(0, len(flat) - count + 1, count), len(flat) - count)):
        order = np.arange(start, start + count) % count
        got = np.empty((count, flat.shape[1]))
        got[order] = flat[start : start + count]
        yield _rate(base, reference, got)


def _margin(row: Measurement) -> tuple[bool, float]:
    """The worst first: what failed, then the lowest figure."""
    return row.status == "passed", CAP_DB if row.snr_db is None else row.snr_db


@dataclass(frozen=True)
class _Base:
    comparison: str
    output: str
    batch: int
    floor_db: float

    def fail(self, reason: str) -> Measurement:
        return self.rated("failed", reason)

    def rated(
        self,
        status: Literal["passed", "failed", "inconclusive"],
        reason: str,
        snr_db: float | None = None,
        figures: dict[str, float | None] | None = None,
    ) -> Measurement:
        return Measurement(
            comparison=self.comparison,
            output=self.output,
            batch=self.batch,
            floor_db=self.floor_db,
            snr_db=snr_db,
            status=status,
            reason=reason,
            # Of numbers near the largest there are, not every figure is one itself.
            **{name: _finite(figure) for name, figure in (figures or {}).items()},
        )


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and math.isfinite(figure) else None


def _rate(base: _Base, reference: Reference, got: np.ndarray) -> Measurement:
    import numpy as np

    want = reference.values.astype(np.float64)
    signal = reference.signal
    noise = float(((want - got) ** 2).mean()) if want.size else 0.0
    power = _power(want)
    attainable = decibels(signal, power * ROUNDING**2)
    figures: dict[str, float | None] = {
        "max_abs_diff": float(np.abs(want - got).max()) if want.size else None,
        "cosine": _cosine(want, got),
        "attainable_db": round(attainable, 2),
    }
    if reference.classes and reference.positions is None and want.shape[1] > 1:
        figures["top1"] = _agreement(want, got, 1)
        figures["top5"] = _agreement(want, got, 5) if want.shape[1] >= 5 else None
    snr = round(decibels(signal, noise), 2)
    if signal == 0.0:
        return base.rated("inconclusive", CONSTANT, snr, figures)
    # Where even an honest file could not reach the floor, falling short of it proves nothing.
    if attainable < base.floor_db:
        varies = f"it varies by {math.sqrt(signal / power):.1e} of its size"
        return base.rated(
            "inconclusive",
            f"PyTorch's output hardly depends on the image ({varies})",
            snr,
            figures,
        )
    part = _lowest_part(base, reference, want, got)
    if part is not None:
        figures |= {"channel_db": round(part.snr_db, 2), "channel_floor_db": part.floor_db}
    if snr < base.floor_db:
        return base.rated("failed", f"{snr:.1f} dB, below {base.floor_db:g} dB", snr, figures)
    if part is not None and part.lost:
        reason = (
            f"{part.place}: {part.snr_db:.1f} dB, below {part.floor_db:g} dB (the whole output "
            f"has {snr:.1f} dB)"
        )
        return base.rated("failed", reason, snr, figures)
    mixed = _of_another_image(want, got)
    if mixed is not None:
        return base.rated("failed", f"the answer to probe {mixed} is another's", snr, figures)
    return base.rated("passed", "", snr, figures)


def _of_another_image(want: np.ndarray, got: np.ndarray) -> int | None:
    """A probe whose answer is far from its own reference and much nearer to another probe's.

    A loud image can hide that the others were exchanged, and low floors let one image pass.
    """
    import numpy as np

    own = ((want - np.median(want, axis=0)) ** 2).mean(1)
    noise = ((want - got) ** 2).mean(1)
    for index in np.flatnonzero(noise > own * FAR):
        others = ((want - got[index]) ** 2).mean(1)
        if others.min() < noise[index] * NEARER:
            return int(index)
    return None


def _lowest_part(
    base: _Base, reference: Reference, want: np.ndarray, got: np.ndarray
) -> channels.Lowest | None:
    powers = channels.Powers(
        signal=((want - want.mean(0)) ** 2).mean(0),
        noise=((want - got) ** 2).mean(0),
        power=(want**2).mean(0),
        answer=((got - got.mean(0)) ** 2).mean(0),
    )
    return channels.lowest(powers, reference.shape, reference.positions, base.floor_db, ROUNDING)


def decibels(signal: float, noise: float) -> float:
    """10 log10 of the ratio, within +-`CAP_DB`."""
    if signal <= 0.0:
        return -CAP_DB
    if noise <= 0.0:
        return CAP_DB
    return max(-CAP_DB, min(CAP_DB, 10.0 * (math.log10(signal) - math.log10(noise))))


def telling_db(row: Measurement) -> float:
    """The SNR of a measurement; as far below its floor as a lost channel is below its own.

    For trials, which look for what comes above the floor.
    """
    if row.snr_db is None:
        return -CAP_DB
    if row.channel_db is None or row.channel_floor_db is None:
        return row.snr_db
    missing = row.channel_floor_db - row.channel_db
    return min(row.snr_db, row.floor_db - missing) if missing > 0 else row.snr_db


def _cosine(want: np.ndarray, got: np.ndarray) -> float:
    """The lowest over the probes."""
    import numpy as np

    norms = np.linalg.norm(want, axis=1) * np.linalg.norm(got, axis=1)
    return float(((want * got).sum(1) / np.maximum(norms, 1e-300)).min())


def _agreement(want: np.ndarray, got: np.ndarray, k: int) -> float:
    """Share of probes whose k best classes are the same set."""
    import numpy as np

    best_want = np.sort(np.argsort(-want, axis=1, kind="stable")[:, :k], axis=1)
    best_got = np.sort(np.argsort(-got, axis=1, kind="stable")[:, :k], axis=1)
    return float((best_want == best_got).all(1).mean())


def show_shape(shape: tuple[object, ...]) -> str:
    """A shape without its batch, as a person reads it: "(N, 3, 224, 224)"."""
    return "(" + ", ".join(["N", *map(str, shape)]) + ")"


def output_text(name: str) -> str:
    """An output by its name, where the only one is called "output"."""
    return name if name == "output" else f"output {name}"
