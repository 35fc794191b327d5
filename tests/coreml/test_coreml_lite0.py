"""Real weights, photographs from JPEG, labels: what an app would get.

All precisions are tried by `benchmarks/photographs.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import photo_trials
import pytest

import timmx_core
from timmx_core.models.labels import imagenet_labels, unique_labels

if TYPE_CHECKING:
    import testdata

pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="tests of the interpreter")


@pytest.fixture(scope="module")
def classes(lite0_dir: Path, photographs: list[testdata.Photograph]) -> list[int]:
    """What PyTorch sees in the photographs."""
    return photo_trials.classes_of_timm(lite0_dir, photographs)


@pytest.mark.parametrize(("precision", "least"), [("fp16", 20), ("fp32", 20), ("int8", 19)])
def test_the_label_of_every_photograph(
    precision: str,
    least: int,
    classes: list[int],
    lite0_dir: Path,
    photographs: list[testdata.Photograph],
    tmp_path: Path,
) -> None:
    result = timmx_core.export(
        "coreml",
        f"local-dir:{lite0_dir}",
        pretrained=True,
        precision=precision,
        image_input=True,
        labels="imagenet-1k",
        output=str(tmp_path / "lite0.mlpackage"),
    )
    assert result.verdict.status == "verified"
    assert result.path is not None
    names = unique_labels(imagenet_labels())
    agreed = 0
    for wanted, (scores, label) in zip(
        classes, photo_trials.outputs_of_file(result.path, photographs), strict=True
    ):
        assert str(label[0]) == names[int(np.argmax(scores))]
        assert float(scores.sum()) == pytest.approx(1, abs=0.01)
        agreed += str(label[0]) == names[wanted]
    assert agreed >= least
