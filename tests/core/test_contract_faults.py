"""Formats that break the contract, each found by the test that is named after it."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import faulty_cases
import pytest
from fake_dists import fake_dist
from filelock import FileLock

CASES = [name for name in vars(faulty_cases) if name.startswith("Test")]
PLUGINS = ("no:cacheprovider", "no:logging", "faulty_selection")
REASONS = {
    "TestConstantOutput": "dB, below 80 dB",
    "TestNotANumber": "NaN or infinite",
    "TestWrongNames": "graph_output",
    "TestWrongDtype": "float64",
    "TestHeavyImport": "numpy",
    "TestNotEmbedding": "cannot be read back",
    "TestNoDigest": "implement Backend.content_digest",
    "TestDigestOfAll": "embedding the manifest changed more of the file",
    "TestCollidingOption": "'verify' is one of core's own",
    "TestOldContract": "it speaks version 0 of the plugin contract, and timmx-core version 1",
    "TestOddReport": "report",
    "TestPrintsInRead": "it prints to stdout, where results go: 'pocket says hello'",
    "TestCrashesAtExit": "its process ended with exit code -6",
    "TestUndeclaredOption": "KeyError: 'effort'",
    "TestUndeclaredGet": "it reads an option 'effort' that it does not declare",
    "TestOldSignature": "open(path, options) of the contract cannot be called: too many",
    "TestLeftWhileConverting": "it leaves cwd/pocket.part behind",
    "TestPartialFile": "the plugin did not leave model.weights in its staging folder",
    "TestWrongSuffix": "suffix 'pocket' does not begin with a dot",
    "TestClashingName": "'verify' is a word of timmx itself",
    "TestLeavesALimit": "the export left recursion limit",
    "TestWritesElsewhere": "pocket.cache",
}


@pytest.fixture(scope="module")
def failures(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Mapping[str, dict[str, str]]:
    """Per case, the tests that failed and why: one run of pytest, for all workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "faulty"
    folder.mkdir(exist_ok=True)
    report = folder / "report.xml"
    with FileLock(folder / "lock"):
        if not report.exists():
            run_cases(folder, report)
    found: dict[str, dict[str, str]] = {name: {} for name in CASES}
    for case in ET.parse(report).iter("testcase"):
        for trouble in (*case.iter("failure"), *case.iter("error")):
            name = case.attrib["classname"].rpartition(".")[2]
            found[name][case.attrib["name"]] = trouble.attrib["message"] + (trouble.text or "")
    return found


def run_cases(folder: Path, report: Path) -> None:
    """Run pytest on `faulty_cases`, which has to fail."""
    (folder / "tmp").mkdir()
    path = Path(faulty_cases.__file__)
    fake_dist(folder / "site", "timmx-old", "1.0", "", {"old": "old_format"})
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    arguments = ["-q", *plugins, f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, f"--basetemp={folder / 'base'}", str(path)],
        # One thread: on a busy machine torch's threads wait for each other on such small models.
        env=os.environ
        | {
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": f"{path.parent}{os.pathsep}{folder / 'site'}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("case", CASES)
def test_a_fault_fails_in_its_own_test(failures: Mapping[str, dict[str, str]], case: str) -> None:
    found = failures[case]
    assert set(found) == set(vars(faulty_cases)[case].expected)
    assert all(REASONS.get(case, "") in text for text in found.values())
