"""What the page of the format shows works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docrun
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executorch.md"])
def test_page(name: str, page_folder: Path) -> None:
    assert docrun.run_page(docrun.ROOT / "docs/formats" / name, page_folder)
