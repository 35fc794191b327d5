"""What the pages show works. docs/formats/*.md are run where their format is installed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import docrun
import pytest

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = [*docrun.format_pages(), docrun.isolation_page()]
GENERAL = [page for page in docrun.pages() if page not in ELSEWHERE]


@pytest.mark.slow
@pytest.mark.parametrize("page", GENERAL, ids=lambda p: str(p.relative_to(docrun.ROOT)))
def test_page(page: Path, page_folder: Path) -> None:
    docrun.run_page(page, page_folder)


@pytest.mark.parametrize("page", docrun.format_pages(), ids=lambda p: p.name)
def test_page_of_a_format_is_run_somewhere(page: Path) -> None:
    runners = (docrun.ROOT / "tests").glob("*/test_pages.py")
    assert any(f'"{page.name}"' in runner.read_text(encoding="utf-8") for runner in runners), (
        f"tests/<format>/test_pages.py runs {page.name}"
    )


def test_the_page_on_isolation_is_run_somewhere() -> None:
    runner = docrun.ROOT / "tests/core/test_pages.py"
    assert "docrun.isolation_page()" in runner.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", docrun.pages(), ids=lambda p: str(p.relative_to(docrun.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    readme = (docrun.ROOT / "README.md").read_text(encoding="utf-8")
    assert "bin/python scripts/test.py\n" in readme
    runs = (docrun.ROOT / ".ci/run").read_text(encoding="utf-8")
    assert 'bin/python" scripts/test.py\n' in runs


def test_every_package_carries_the_licence_and_a_changelog() -> None:
    licence = (docrun.ROOT / "LICENSE").read_bytes()
    for project in docrun.ROOT.glob("packages/*/pyproject.toml"):
        assert (project.parent / "LICENSE").read_bytes() == licence
        assert (project.parent / "CHANGELOG.md").is_file()
