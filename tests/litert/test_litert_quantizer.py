"""LiteRT's quantizer has two names, and either will do."""

from __future__ import annotations

import importlib.util

import pytest

from timmx_litert import quantizer


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"litert_quantizer"}, "litert-quantizer>=0.11"),
        ({"ai_edge_quantizer"}, "ai-edge-quantizer>=0.10"),
        ({"ai_edge_quantizer", "litert_quantizer"}, "litert-quantizer>=0.11"),
        (set(), "ai-edge-quantizer>=0.10"),
    ],
)
def test_the_one_that_is_installed(
    installed: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    assert quantizer.requirement() == chosen


def test_it_has_the_parts_that_are_used() -> None:
    assert quantizer.part("quantizer").Quantizer
    assert quantizer.part("utils.qsv_utils").min_max_update
