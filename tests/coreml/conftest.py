"""coremltools leaves files open and warns of libraries it has not met; that is no finding here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ITS_OWN = (
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::RuntimeWarning:coremltools.*",
    "ignore::UserWarning:coremltools.*",
    "ignore::FutureWarning",
)


@pytest.fixture(scope="session", autouse=True)
def _little_to_collect() -> Iterator[None]:
    """The converter collects garbage each time, and looks at all of torch for it: 0.7 s of 0.9."""
    import coremltools  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for line in ITS_OWN:
                item.add_marker(pytest.mark.filterwarnings(line))
