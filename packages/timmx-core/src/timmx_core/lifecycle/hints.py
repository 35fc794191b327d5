"""What to do about a file that was not published, as the hint below its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import Backend, ExportRequest
from timmx_core.request.options import flag
from timmx_core.request.shared_options import LOWEST_FLOOR_DB
from timmx_core.results import Measurement, Verdict
from timmx_core.verification.measure import CONSTANT, NOT_FINITE

NEAR_DB = 40.0
"""An error of 1 %: faults leave more, but for a factor of 1.01, and rounding leaves less."""


def advise(
    verdict: Verdict,
    backend: Backend,
    request: ExportRequest,
    manifest: Mapping[str, Any],
    kept: Path | None,
) -> str:
    """The hint for a verdict that is not good enough.

    :param kept: where the file was put for inspection.
    """
    parts = [_remedy(verdict, backend, request, manifest)]
    if kept is not None:
        parts.append(f"kept for inspection: {kept}")
    elif verdict.status == "failed":
        parts.append("--keep-failed DIR keeps the file for inspection")
    return "; ".join(part for part in parts if part)


def _remedy(
    verdict: Verdict, backend: Backend, request: ExportRequest, manifest: Mapping[str, Any]
) -> str:
    if verdict.status == "inconclusive":
        return f"{_informative(verdict)}, or publish it all the same with --accept-inconclusive"
    if verdict.status == "not verifiable here":
        return "leave --require-verified out, and run `timmx verify` where the runtime is"
    acceptable = _acceptable(verdict)
    if not is_lossy(verdict, backend, request):
        if acceptable is not None and acceptable >= NEAR_DB:
            return (
                "rounding alone may be the reason, where weights are hard on a runtime: "
                f"--floor {acceptable} accepts this error of {10 ** (-acceptable / 20):.1%}"
            )
        return "" if request.shared["keep_failed"] else "nothing was written"
    random = manifest["model"]["weights"]["origin"] == "random"
    remedies = ", or ".join(_remedies(backend, request, random=random))
    advice = f"{request.precision.name} may be too low for this model: try {remedies}"
    if acceptable is None:
        return advice
    return f"{advice}; --floor {acceptable} accepts it as it is"


def _informative(verdict: Verdict) -> str:
    """What could make an inconclusive output say something, where anything could."""
    rows = verdict.measurements
    if any(row.reason == NOT_FINITE for row in rows):
        return "look in PyTorch for the weights or the layer that such values come from"
    constant = {row.output for row in rows if row.reason == CONSTANT}
    if constant and any(row.status == "passed" for row in rows):
        return f"leave {' and '.join(sorted(constant))} out of what the model returns"
    return "verify with real weights (--pretrained) or images (--probe-data DIR)"


def _acceptable(verdict: Verdict) -> int | None:
    """The floor that would let the file pass; None where none should, or nothing was measured."""
    missed = [row for row in verdict.measurements if row.status == "failed"]
    wanted = [_reached(row) for row in missed]
    figures = [figure for figure in wanted if figure is not None]
    if not figures or len(figures) < len(missed) or min(figures) < LOWEST_FLOOR_DB:
        return None
    return math.floor(min(figures))


def _reached(row: Measurement) -> float | None:
    if row.snr_db is None or row.channel_db is None or row.channel_floor_db is None:
        return row.snr_db
    return min(row.snr_db, row.channel_db * row.floor_db / row.channel_floor_db)


def is_lossy(verdict: Verdict, backend: Backend, request: ExportRequest) -> bool:
    """Whether all that a file misses is the floor of a precision below the format's highest.

    Nothing like the model's answers are a fault, unless what was lowered is known to be right.
    """
    floors = {p.name: p.floor_db for p in backend.precisions}
    if floors[request.precision.name] == max(floors.values()):
        return False
    floor = request.precision.floor_db
    missed = [row for row in verdict.measurements if row.status == "failed"]
    right_before = any(r.status == "passed" and r.floor_db > floor for r in verdict.measurements)
    return bool(missed) and all(
        row.snr_db is not None and row.floor_db == floor and (row.snr_db > 0 or right_before)
        for row in missed
    )


def _remedies(backend: Backend, request: ExportRequest, *, random: bool) -> Iterator[str]:
    """The nearest first."""
    own = request.precision
    if own.calibrated and request.shared["random_calibration"]:
        yield "--calibration-data DIR"
    elif own.calibrated:
        yield "other calibration images"
    if random:
        yield "--pretrained"
    for option in backend.options:
        if own.name in option.precisions and option.choices:
            others = [word for word in option.choices if word != request.options[option.name]]
            yield f"{flag(option.name)} {' or '.join(others)}"
    # Of two with the same floor, the one that needs no calibration keeps more of the activations.
    gentler = [
        p
        for p in backend.precisions
        if p.floor_db > own.floor_db
        or (p.floor_db == own.floor_db and own.calibrated and not p.calibrated)
    ]
    if gentler:
        names = [p.name for p in sorted(gentler, key=lambda p: p.floor_db)]
        yield f"--precision {' or '.join(names)}"
