"""What a builder is told, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Of either library; what one of them lacks stays at its default."""

    tf32: bool = False
    workspace: int | None = None  # MiB
    targets: tuple[str, ...] = ()  # "sm86"; none: the GPU that is here
    level: int | None = None  # of the builder's search, 0 to 5
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
