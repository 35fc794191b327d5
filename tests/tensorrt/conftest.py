"""Cards that are not here, for what is said of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from timmx_tensorrt import gpu
from timmx_tensorrt.gpu import Gpu

Plug = Callable[..., Gpu]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Put a card into the machine, as far as timmx can see."""

    def plug(name: str = "NVIDIA RTX A5000", capability: tuple[int, int] = (8, 6)) -> Gpu:
        card = Gpu(name, capability, "13.0", "580.95.05")
        monkeypatch.setattr(gpu, "find", lambda: card)
        return card

    return plug


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the card out, where there is one."""

    def find() -> Gpu:
        raise gpu.NoGpuError("there is no NVIDIA driver here")

    monkeypatch.setattr(gpu, "find", find)
