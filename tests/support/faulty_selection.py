"""Of each case in `faulty_cases`, the tests that must fail and some that must not.

A plugin of pytest's. All of the contract for all of the formats would be two thousand tests.
"""

from __future__ import annotations

import pytest

OTHERS = 20  # each n-th of those that must not fail, of each case others


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for number, item in enumerate(items):
        expected = getattr(getattr(item, "cls", None), "expected", ())
        wanted = item.name in expected or number % OTHERS == 0
        (chosen if wanted else left).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=left)
