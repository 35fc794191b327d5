"""What docs/isolation.md shows works, with a real format in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import docrun
import pytest


@pytest.mark.slow
def test_page(page_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (page_folder / "packages").symlink_to(docrun.ROOT / "packages")
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path / "plugins"))
    monkeypatch.setenv("UV_COMPILE_BYTECODE", "1")
    assert docrun.run_page(docrun.isolation_page(), page_folder) == 5
