"""What may happen to an export to a package, which is a folder, and what it leaves behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest
from accident_trials import AccidentTests, AllAccidents, Place, small_disk

pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="mounts as Linux does")


class TestCoreML(AllAccidents):
    """Core ML packages. The converter writes one of its own first, into staging."""

    format = "coreml"
    killed = AccidentTests.killed
    ends = AccidentTests.ends
    rooms = ("0", "0.9", "1.9")
    options: ClassVar[tuple[str, ...]] = ("--precision", "fp32")

    def test_the_disk_is_full(self, place: Place, good: Path, room: str) -> None:
        """Exit code 8, one line and a hint, and the disk as it was."""
        parts = sum(p.stat().st_size for p in good.rglob("*") if p.is_file())
        with small_disk(place.folder, int(parts * float(room))) as disk:
            ended = place.start().end()
            assert ended.code == 8, ended.err
            assert [line.split(":")[0] for line in ended.said][:2] == ["error", "hint"]
            assert "no space left on the disk of" in ended.said[0]
            assert ended.out == ""
            assert list(disk.iterdir()) == []
