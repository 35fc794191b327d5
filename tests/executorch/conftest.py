"""ExecuTorch and what it imports warn of their own future; that is no finding here."""

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
    "ignore::FutureWarning",
    "ignore::SyntaxWarning",
    "ignore::RuntimeWarning:(coremltools|executorch|torchao).*",
    "ignore::UserWarning:(coremltools|executorch|torchao|torch).*",
)


@pytest.fixture(scope="session", autouse=True)
def _little_to_collect() -> Iterator[None]:
    """Lowering makes much garbage, and each collection looks at all of torch for it."""
    import torch  # noqa: F401
    from executorch import exir  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for line in ITS_OWN:
                item.add_marker(pytest.mark.filterwarnings(line))
