"""docs/reference has every hook, class, option and argument of the contract, as the sources say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from timmx_core.backend import Option

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "packages/timmx-core/src/timmx_core"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """`scripts/reference.py`."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def missing(reference: ModuleType, page: str, module: str, old: str, new: str) -> list[str]:
    """What is found missing once a source is changed."""
    sources = {m: (CORE / f"{m}.py").read_text("utf-8") for m, _ in reference.PAGES[page].sources}
    assert old in sources[module]
    sources[module] = sources[module].replace(old, new, 1)
    findings = reference.Findings()
    reference.page(page, findings, sources)
    return list(findings.missing)


def test_every_page_is_what_the_sources_give(reference: ModuleType) -> None:
    findings = reference.Findings()
    pages = reference.made(findings)
    assert findings.missing == []
    shown = {p.name: p.read_text("utf-8") for p in reference.TARGET.glob("*.md")}
    assert shown == pages, "run: python scripts/reference.py"


def test_every_name_of_the_contract_is_on_a_page(reference: ModuleType) -> None:
    from timmx_core import __all__ as public
    from timmx_core import hookspecs, testing

    text = "".join(p.read_text("utf-8") for p in reference.TARGET.glob("*.md"))
    hooks = [name for name in hookspecs.__all__ if name.startswith("timmx_")]
    for name in (*public, *hooks, *testing.__all__):
        assert f"## {name}\n" in text, name


@pytest.mark.parametrize(
    ("page", "module", "old", "new", "found"),
    [
        (
            *("hooks", "hookspecs", ":param name: the MODEL argument", "the MODEL argument"),
            "hookspecs.timmx_model_source: its argument name has no `:param name:`",
        ),
        (
            *("hooks", "hookspecs", "timmx_backends() ->", "timmx_backends(extra: int) ->"),
            "hookspecs.timmx_backends: its argument extra has no `:param extra:`",
        ),
        (
            *("hooks", "hookspecs", ".. versionadded:: 0.1", ""),
            "hookspecs.timmx_backends: it does not say since when (.. versionadded::)",
        ),
        (
            *("backend", "backend", "    unset: str =", "    new: int = 0\n    unset: str ="),
            "backend.Option.new: it has no comment",
        ),
        (
            *("backend", "backend", "class Runner(", "class Extra:\n    pass\n\n\nclass Runner("),
            "backend.Extra: it has no docstring",
        ),
        (
            "backend",
            "backend",
            "    def check_run(self)",
            "    def bare(self):\n        pass\n\n    def check_run(self)",
            "backend.Backend.bare: it has no docstring",
        ),
    ],
)
def test_what_nobody_documented_is_found(
    reference: ModuleType, page: str, module: str, old: str, new: str, found: str
) -> None:
    assert found in missing(reference, page, module, old, new)


def test_what_came_later_says_so(reference: ModuleType) -> None:
    source = (
        '"""M."""\n\nclass A:\n    """A.\n\n    .. versionadded:: 0.1\n    """\n\n'
        "    old: int  # one\n    new: int = 2  # another (versionadded 0.2)\n"
    )
    findings = reference.Findings()
    tree = reference.Source("m", source)
    lines = list(reference.class_section(tree.tree.body[1], tree, findings))
    assert findings.missing == []
    assert "| `old` | `int` |  | one |" in lines
    assert "| `new` | `int` | `2` | another *Since 0.2.* |" in lines


def test_an_option_says_since_when(reference: ModuleType) -> None:
    findings = reference.Findings()
    options = (Option("a", "int", "A.", 1), Option("b", "str", " ", versionadded="0.7"))
    page = reference.options_page(findings, options)
    assert findings.missing == ["option b: it has no help"]
    assert "| `a` | int | `1` | A. | 0.1 |" in page
    assert page.rstrip().endswith("| 0.7 |")
