"""What litert-torch and its libraries warn of by themselves is no finding here."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ITS_OWN = (
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:(ai_edge_litert|ai_edge_quantizer|jax|litert_torch|torch|torchao).*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for line in ITS_OWN:
                item.add_marker(pytest.mark.filterwarnings(line))
