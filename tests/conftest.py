"""What the tests of all packages share: a private home, no hub, real weights and photographs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Suites shared by several formats say what they found, as tests do.
pytest.register_assert_rewrite(
    "accident_trials",
    "fault_suite",
    "fault_trials",
    "photo_trials",
    "quiet_trials",
    "reference_trials",
)

import inline_worker  # noqa: E402
import margins  # noqa: E402
import testdata  # noqa: E402

# Before anything imports huggingface_hub, which reads these once; child processes inherit them.
_HOME = Path(tempfile.mkdtemp(prefix="timmx-tests-"))
os.environ["TIMMX_HOME"] = str(_HOME / "timmx")
os.environ["HF_HOME"] = str(_HOME / "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("TIMMX_DISABLE_PLUGINS", None)
# As the command line has it: torch's threads do not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    margins.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    margins.configure(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow starts first, so that no processor waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _files_run_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process of their own would prove nothing more."""
    inline_worker.install(request, monkeypatch)


@pytest.fixture(scope="session")
def lite0_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tf_efficientnet_lite0` with ImageNet weights, for `local-dir:{lite0_dir}`."""
    return testdata.write_lite0(tmp_path_factory.mktemp("models") / "tf_efficientnet_lite0")


@pytest.fixture(scope="session")
def photographs() -> list[testdata.Photograph]:
    """Twenty JPEGs with their ImageNet classes."""
    return testdata.photographs()


@pytest.fixture
def page_folder(tmp_path: Path) -> Path:
    """Where the commands of a page of the documentation run."""
    testdata.furnish(tmp_path)
    return tmp_path
