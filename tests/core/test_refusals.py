"""What cannot succeed is refused before torch is loaded, and nothing is made for it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_dists import fake_dist, format_source

TIMMX = Path(sys.executable).with_name("timmx")
MODEL = "test_resnet"
# Who loads torch would wait for seconds to be refused.
TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.loaded').touch()\nraise SystemExit\n"
WITHOUT_CONVERTER = """
    def check_export(self, request):
        raise MissingDependency("converter 3 is not installed", 'pip install "converter>=3"')

    def open("""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The formats `alpha` and `beta`, whose converter is missing, and a torch nobody may load."""
    folder = tmp_path / "site"
    fake_dist(folder, "timmx-alpha", "1.0", format_source("alpha"))
    lacking = format_source("beta").replace("    def open(", WITHOUT_CONVERTER)
    fake_dist(folder, "timmx-beta", "1.0", lacking)
    (folder / "torch.py").write_text(TRAP)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """With an artifact, a folder of an artifact's name, and a checkpoint of no kind."""
    folder = tmp_path / "work"
    (folder / "folder.alpha").mkdir(parents=True)
    (folder / "old.alpha").write_text("old")
    (folder / "two.txt").write_text("cat\ndog\n")
    return folder


def processor_time() -> float:
    """Seconds that child processes took so far, which does not depend on who else is busy."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        (("alpha", "resent50"), 5, "timm has no model 'resent50'", "did you mean resnet50"),
        (("beta", MODEL), 3, "converter 3 is not installed", 'pip install "converter>=3"'),
        (("alhpa", MODEL), 3, "alhpa", "did you mean alpha?"),
        (("alpha", MODEL, "--num-classes", "-3"), 2, "--num-classes is at least 1", ""),
        (("alpha", MODEL, "--input-size", "3", "-1", "0"), 2, "--input-size is at least 1", ""),
        (("alpha", MODEL, "-o", "old.alpha"), 8, "old.alpha exists already", "--overwrite"),
        (("alpha", MODEL, "-o", "folder.alpha"), 8, "folder.alpha", "-o"),
        (("alpha", MODEL, "--overwrite", "-o", "folder.alpha"), 8, "is a directory", "-o"),
        (("alpha", MODEL, "-o", ".alpha"), 2, ".alpha is a suffix", "-o model.alpha"),
        (("alpha", MODEL, "-o", "new/.alpha"), 2, "is a suffix", "-o new/model.alpha"),
        (("alpha", MODEL, "--labels", "none.txt"), 2, "none.txt", ""),
        (
            ("alpha", MODEL, "--labels", "two.txt", "--num-classes", "3"),
            2,
            "2 labels for 3 classes",
            "one name for each class",
        ),
        (("alpha", MODEL, "--checkpoint", "none.pth"), 5, "none.pth", ""),
        (("alpha", "local-dir:none"), 5, "none", ""),
        (
            ("alpha", MODEL, "--input-size", "224"),
            2,
            "--input-size wants 3 whole numbers (C H W)",
            "",
        ),
        (("alpha", MODEL, "--num-classes", "-3", "-o", "old.alpha"), 2, "--num-classes", ""),
        (("verify", "."), 9, "is a directory", "name a file"),
        (("inspect", "/"), 9, "is a directory", "name a file"),
        (("verify", "none.alpha"), 9, "none.alpha", ""),
        (("inspect", "none.alpha"), 9, "none.alpha", ""),
    ],
)
def test_refused_at_once(
    site: Path, work: Path, words: Sequence[str], code: int, error: str, hint: str
) -> None:
    before = sorted(work.rglob("*"))
    if words[0] not in ("verify", "inspect") and "-o" not in words:
        suffix = "beta" if words[0] == "beta" else "alpha"
        words = (*words, "-o", f"new/folder/model.{suffix}")
    start = processor_time()
    done = subprocess.run(
        [TIMMX, *words],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(site), "TIMMX_HOME": str(site / "home")},
        capture_output=True,
        text=True,
    )
    # Importing torch takes two seconds or more.
    assert processor_time() - start < 1.0
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert len(rest) <= 1
    assert hint in "".join(rest)
    assert sorted(work.rglob("*")) == before
    assert (work / "old.alpha").read_text() == "old"
    assert not (site / "torch.loaded").exists()


@pytest.mark.parametrize(
    "words",
    [f"alpha {MODEL} -o made.alpha", f"alpha {MODEL} -o /tmp/made.alpha", "plugins new gamma"],
)
def test_a_working_folder_that_was_removed(site: Path, tmp_path: Path, words: str) -> None:
    """What one of PyTorch's libraries makes of that is the end of its process."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f'rmdir "$PWD" && exec "{TIMMX}" {words}'],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(site), "TIMMX_HOME": str(site / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "the folder that this was started in does not exist any more" in done.stderr
    assert not (site / "torch.loaded").exists()
