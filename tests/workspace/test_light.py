"""Plugins and the contract are light to import: start-up pays for every plugin installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

HEAVY = {
    "coremltools",
    "executorch",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "tensorflow",
    "timm",
    "torch",
    "torchvision",
}
CONTRACT = [
    "timmx_core",
    "timmx_core.backend",
    "timmx_core.errors",
    "timmx_core.hookspecs",
    "timmx_core.request.options",
    "timmx_core.results",
]
PLUGINS = sorted(point.module for point in entry_points(group="timmx"))


def imported_by(module: str) -> set[str]:
    """The packages that a fresh process has after importing `module`."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_plugins_of_this_repository_are_here() -> None:
    assert {"timmx_coreml.plugin", "timmx_onnx.plugin", "timmx_torch.plugin"} <= set(PLUGINS)


@pytest.mark.parametrize("module", CONTRACT + PLUGINS)
def test_import_is_light(module: str) -> None:
    assert not imported_by(module) & HEAVY


@pytest.mark.parametrize("module", PLUGINS)
def test_plugins_do_not_bring_the_command_line(module: str) -> None:
    assert not imported_by(module) & {"click", "rich"}
