"""What an export, a verification and an inspection give back: plain data, JSON-able."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Status = Literal["verified", "failed", "inconclusive", "not verifiable here", "not verified"]


@dataclass(frozen=True)
class Measurement:
    """One output of one comparison, over all probes. `None` where a figure makes no sense.

    .. versionadded:: 0.1
    """

    comparison: str  # "file", or the label of a further comparison
    output: str  # its name
    batch: int  # images at once
    snr_db: float | None  # signal to noise against the reference
    floor_db: float  # what it has to reach
    max_abs_diff: float | None = None  # largest difference of a number
    cosine: float | None = None  # of all numbers
    top1: float | None = None  # share of probes on which the best class agrees
    top5: float | None = None  # share of probes whose best class is among the five best
    attainable_db: float | None = None  # what rounding alone would leave of the signal
    channel_db: float | None = None  # of the channel (class, coordinate) that came through worst
    channel_floor_db: float | None = None  # what each of them has to reach
    status: Literal["passed", "failed", "inconclusive"] = "passed"  # of this measurement
    reason: str = ""  # why it did not pass


def worst_of(rows: Iterable[Measurement]) -> Measurement | None:
    """The one with the lowest margin over its floor; None where none has a figure.

    .. versionadded:: 0.1
    """
    rated = [m for m in rows if m.snr_db is not None]
    return min(rated, key=lambda m: (m.snr_db or 0.0) - m.floor_db, default=None)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a verification. `reason` is empty for a plain `verified`.

    .. versionadded:: 0.1
    """

    status: Status  # of the file
    reason: str = ""  # in one line
    runner: str = ""  # "onnxruntime 1.32 CPUExecutionProvider"
    kind: Literal["native", "reference", ""] = ""  # of the runner; empty: nothing ran
    measurements: tuple[Measurement, ...] = ()  # every output of every comparison and batch size
    probes: int = 0  # images that were run

    @property
    def label(self) -> str:
        """As a person reads it: "verified (reference interpreter)"."""
        if self.status == "verified" and self.kind == "reference":
            return "verified (reference interpreter)"
        return self.status

    @property
    def worst(self) -> Measurement | None:
        """The measurement with the lowest margin over its floor."""
        return worst_of(self.measurements)

    def to_json(self) -> dict[str, Any]:
        """As the record and `--json` have it."""
        return {**asdict(self), "measurements": [asdict(row) for row in self.measurements]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict of a record or of `--json`; what a newer core added to it is left out."""
        rows = data.get("measurements", ())
        measurements = tuple(Measurement(**_known(Measurement, row)) for row in rows)
        return cls(**_known(cls, data) | {"measurements": measurements})


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


@dataclass(frozen=True)
class ExportResult:
    """A finished export. `path` is None when nothing was published.

    .. versionadded:: 0.1
    """

    path: Path | None  # of the primary
    verdict: Verdict  # whether the file does what the model does
    manifest: Mapping[str, Any]  # what the file says of itself
    record: Mapping[str, Any]  # what lies beside it: manifest, verdict, digests
    size: int  # bytes, companions included
    companions: tuple[Path, ...] = ()  # files beside the primary
    notes: tuple[str, ...] = ()  # what the user was told besides
    seconds: Mapping[str, float] = field(default_factory=dict)  # per stage
    kept: Path | None = None  # where a failed file was kept (`--keep-failed`)

    def to_json(self) -> dict[str, Any]:
        """One machine-readable object, as `--json` prints it."""
        return {
            "path": str(self.path) if self.path else None,
            "companions": [str(p) for p in self.companions],
            "size": self.size,
            "verdict": self.verdict.to_json(),
            "manifest": dict(self.manifest),
            "notes": list(self.notes),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "kept": str(self.kept) if self.kept else None,
        }


@dataclass(frozen=True)
class Inspection:
    """What a file says of itself, and what the record beside it adds.

    .. versionadded:: 0.1
    """

    path: Path  # as given
    format: str  # its name
    embedded: bool  # the manifest came out of the file itself
    manifest: Mapping[str, Any]  # what the file says of itself
    record: Mapping[str, Any] | None  # what lies beside it, or None
    intact: bool | None  # False: a digest does not match; None: there is no record to go by
    problems: tuple[str, ...] = ()  # a line each
