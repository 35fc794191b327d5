"""What an export, a verification and an inspection give back: plain data, JSON-able."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["verified", "failed", "inconclusive", "not verifiable here", "not verified"]


@dataclass(frozen=True)
class Measurement:
    """One output of one comparison, over all probes. `None` where a figure makes no sense."""

    comparison: str  # "file", or the label of a further comparison
    output: str
    batch: int
    snr_db: float | None
    floor_db: float
    max_abs_diff: float | None = None
    cosine: float | None = None
    top1: float | None = None  # share of probes on which the best class agrees
    top5: float | None = None
    attainable_db: float | None = None  # what rounding alone would leave of the signal
    status: Literal["passed", "failed", "inconclusive"] = "passed"
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a verification. `reason` is empty for a plain `verified`."""

    status: Status
    reason: str = ""
    runner: str = ""
    kind: Literal["native", "reference", ""] = ""
    measurements: tuple[Measurement, ...] = ()
    probes: int = 0

    @property
    def label(self) -> str:
        """As a person reads it: "verified (reference interpreter)"."""
        if self.status == "verified" and self.kind == "reference":
            return "verified (reference interpreter)"
        return self.status

    @property
    def worst(self) -> Measurement | None:
        """The measurement with the lowest margin over its floor."""
        rated = [m for m in self.measurements if m.snr_db is not None]
        return min(rated, key=lambda m: (m.snr_db or 0.0) - m.floor_db, default=None)


@dataclass(frozen=True)
class ExportResult:
    """A finished export. `path` is None when nothing was published."""

    path: Path | None
    verdict: Verdict
    manifest: Mapping[str, Any]
    record: Mapping[str, Any]
    size: int  # bytes, companions included
    companions: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # per stage
    kept: Path | None = None  # where a failed file was kept (`--keep-failed`)

    def to_json(self) -> dict[str, Any]:
        """One machine-readable object, as `--json` prints it."""
        from timmx_core.manifest import verdict_to_json

        return {
            "path": str(self.path) if self.path else None,
            "companions": [str(p) for p in self.companions],
            "size": self.size,
            "verdict": verdict_to_json(self.verdict),
            "manifest": dict(self.manifest),
            "notes": list(self.notes),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "kept": str(self.kept) if self.kept else None,
        }


@dataclass(frozen=True)
class Inspection:
    """What a file says of itself, and what the record beside it adds."""

    path: Path
    format: str
    embedded: bool  # the manifest came out of the file itself
    manifest: Mapping[str, Any]
    record: Mapping[str, Any] | None
    intact: bool | None  # the digests of the record match the files; None: no record
    problems: tuple[str, ...] = ()
