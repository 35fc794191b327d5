"""Files run in the process of the tests, where a process of their own proves nothing more.

A verification starts a process for each file, which imports the runtime: seconds, for files that
run in milliseconds. What such a process is for (crashes, hangs, memory) has tests of its own, and
the command line is never spared it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import timmx_core.verification.judge
import timmx_core.verification.worker
from timmx_core.backend import Backend
from timmx_core.errors import CannotRunHere
from timmx_core.verification.worker import Outcome, check_found, run_probes

# Tests that convert and verify in Python, many of them the same small model.
MODULES = re.compile(
    r"test_(\w+_(contract|export|precisions|faults|lite0|archive|screening)|fuzz_\w+)"
)
# LiteRT 2.3 gives a later interpreter of one process wrong answers at times, with a dynamic batch;
# and it is quickly imported.
OWN = re.compile(r"test_litert_(contract|export|precisions)")
# These tests of the kit want the process that every verification has outside of the tests, as those
# with the mark `own_process` do.
REAL = re.compile(r"plain_export|another_process|output constant|batch shuffled|one NaN")


class InlineWorker:
    """Runs a file in this process: what is tried here is the verdict, and imports take seconds."""

    def __init__(self, backend: Backend) -> None:
        check_found(backend)
        self.backend = backend

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""

    def close(self) -> None:
        """Likewise."""

    def run(
        self,
        path: Path,
        inputs: Mapping[str, np.ndarray],
        batches: Sequence[int],
        options: Mapping[str, Any],
        folder: Path,
        timeout: float,
    ) -> Outcome:
        """As `timmx_core.verification.worker.Worker.run`."""
        try:
            with self.backend.open(path, options) as runner:
                outputs = {batch: run_probes(runner, inputs, batch) for batch in batches}
                return Outcome("ok", "", "", runner.name, runner.kind, outputs)
        except CannotRunHere as error:
            return Outcome("cannot run", error.message)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises on a broken file
            return Outcome("failed", str(error))


def install(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the files of a test run here, if it is one of these."""
    name = request.path.stem
    if OWN.fullmatch(name) or not MODULES.fullmatch(name):
        return
    if not (REAL.search(request.node.name) or request.node.get_closest_marker("own_process")):
        monkeypatch.setattr(timmx_core.verification.worker, "Worker", InlineWorker)
        monkeypatch.setattr(timmx_core.verification.judge, "Worker", InlineWorker)
