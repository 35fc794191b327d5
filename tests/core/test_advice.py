"""What is told beside a verdict that is not good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pocket_format import PocketBackend

from timmx_core.backend import Option, Precision
from timmx_core.lifecycle.hints import advise
from timmx_core.request.options import make_request
from timmx_core.results import Measurement, Verdict


class Lower(PocketBackend):
    """Has precisions below float32, of which one is calibrated."""

    precisions = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "float16", floor_db=30.0),
        Precision("int8", "int8", "int8", floor_db=5.0, calibrated=True),
        Precision("dynamic-int8", "int8", "float32", floor_db=5.0),
    )
    options = (
        *PocketBackend.options,
        Option(
            "ranges", "str", "How.", "mean", choices=("mean", "most", "all"), precisions=("int8",)
        ),
    )


def hint(
    snr_db: float | None,
    floor_db: float = 5.0,
    origin: str = "pretrained",
    beside: tuple[Measurement, ...] = (),
    kept: Path | None = None,
    **given: Any,
) -> str:
    """For a file whose one measurement failed, with others beside it."""
    row = Measurement("file", "output", 1, snr_db, floor_db, status="failed", reason="so")
    request = make_request(Lower(), "resnet18", given)
    manifest = {"model": {"weights": {"origin": origin}}}
    verdict = Verdict("failed", "so", measurements=(row, *beside))
    return advise(verdict, Lower(), request, manifest, kept)


RANDOM = {"precision": "int8", "random_calibration": True}


@pytest.mark.parametrize(
    ("given", "origin", "remedies"),
    [
        (
            RANDOM,
            "random",
            (
                "--calibration-data DIR, or --pretrained, or --ranges most or all, or --precision "
                "dynamic-int8 or fp16 or fp32"
            ),
        ),
        (
            {"precision": "int8", "calibration_data": "images", "ranges": "all"},
            "pretrained",
            (
                "other calibration images, or --ranges mean or most, or --precision "
                "dynamic-int8 or fp16 or fp32"
            ),
        ),
        ({"precision": "dynamic-int8"}, "pretrained", "--precision fp16 or fp32"),
    ],
)
def test_a_precision_that_loses_too_much(given: dict[str, Any], origin: str, remedies: str) -> None:
    said = hint(3.1, origin=origin, **given)
    name = given["precision"]
    assert said == (
        f"{name} may be too low for this model: try {remedies}; --floor 3 accepts it as it is; "
        "--keep-failed DIR keeps the file for inspection"
    )


def test_a_file_that_was_kept_is_named_beside_what_helps() -> None:
    said = hint(3.1, precision="dynamic-int8", keep_failed="bad", kept=Path("bad/model.pocket"))
    assert said == (
        "dynamic-int8 may be too low for this model: try --precision fp16 or fp32; --floor 3 "
        "accepts it as it is; kept for inspection: bad/model.pocket"
    )
    said = hint(-4.0, precision="dynamic-int8", keep_failed="bad", kept=Path("bad/model.pocket"))
    assert said == "kept for inspection: bad/model.pocket"


def test_what_is_known_to_be_right_before_it_is_lowered() -> None:
    float_file = Measurement("float file", "output", 1, 95.0, 80.0)
    assert hint(-5.8, **RANDOM).startswith("nothing was written")
    assert hint(-5.8, beside=(float_file,), **RANDOM).startswith("int8 may be too low")


@pytest.mark.parametrize(
    ("snr_db", "floor_db", "given"),
    [
        (None, 5.0, RANDOM),  # no answer, NaN, another shape
        (-4.0, 5.0, RANDOM),  # nothing like the model
        (20.0, 80.0, RANDOM),  # the float file that it was made from is wrong already
        (20.0, 80.0, {}),  # as precise as it can be
    ],
)
def test_a_file_that_is_wrong_is_not_excused_with_its_precision(
    snr_db: float | None, floor_db: float, given: dict[str, Any]
) -> None:
    assert hint(snr_db, floor_db, **given).startswith("nothing was written")


@pytest.mark.parametrize(
    ("snr_db", "accepted"), [(57.4, "--floor 57 accepts this error of 0.1%"), (39.0, "")]
)
def test_an_error_that_may_be_rounding_can_be_accepted_knowingly(
    snr_db: float, accepted: str
) -> None:
    said = hint(snr_db, 80.0)
    assert accepted in said
    assert ("--floor" in said) is bool(accepted)


def test_a_lost_channel_asks_for_the_floor_that_lets_it_pass() -> None:
    row = Measurement(
        "file", "output", 1, 110.0, 80.0, channel_db=22.0, channel_floor_db=40.0, status="failed"
    )
    request = make_request(Lower(), "resnet18", {})
    manifest = {"model": {"weights": {"origin": "module"}}}
    said = advise(Verdict("failed", "so", measurements=(row,)), Lower(), request, manifest, None)
    assert "--floor 44 accepts" in said


def test_a_lowered_floor_does_not_make_a_precision_a_low_one() -> None:
    assert hint(45.0, 50.0, floor=50).startswith("rounding alone")
