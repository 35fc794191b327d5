"""What was asked is validated before anything slow, with one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pocket_format import PocketBackend

from timmx_core.backend import ExportRequest, Option, Precision
from timmx_core.errors import RequestError
from timmx_core.plugins.checks import InvalidBackendError, check_backend
from timmx_core.request.options import (
    coerce,
    flag,
    make_request,
    options_of,
    run_options,
)
from timmx_core.request.shared_options import SHARED_OPTIONS


class Calibrated(PocketBackend):
    precisions = (
        *PocketBackend.precisions,
        Precision("int8", "int8", "int8", floor_db=5.0, calibrated=True),
    )


def request(**given: Any) -> ExportRequest:
    return make_request(PocketBackend(), "resnet18", given)


def refusal(**given: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        request(**given)
    assert "\n" not in str(caught.value)
    return caught.value


def test_defaults_are_filled_in() -> None:
    made = request()
    assert made.precision.name == "fp32"
    assert made.batch == (1, 1, 1)
    assert not made.dynamic_batch
    assert made.options == {"level": 1, "threads": 1}
    assert set(made.shared) == {option.name for option in SHARED_OPTIONS}


def test_uint8_input_implies_normalize() -> None:
    assert request(uint8_input=True).shared["normalize"] is True


class Implying(PocketBackend):
    implies = {"level": {"precision": "fp16", "softmax": True}}  # noqa: RUF012


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precision": "fp32"}, "--level means --precision fp16, and not --precision fp32"),
        ({"softmax": False}, "--level means --softmax, and not --no-softmax"),
    ],
)
def test_what_an_option_implies_is_not_overruled(given: dict[str, Any], said: str) -> None:
    backend = Implying()
    assert make_request(backend, "resnet18", {"level": 2}).precision.name == "fp16"
    with pytest.raises(RequestError, match=said):
        make_request(backend, "resnet18", {"level": 2} | given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"uint8_input": True, "normalize": False}, "--uint8-input means --normalize, and not"),
        ({"out_indices": "1", "features": False}, "--out-indices means --features, and not"),
        ({"batch_max": 4, "dynamic_batch": False}, "--batch-max means --dynamic-batch, and not"),
    ],
)
def test_nor_what_an_option_of_core_implies(given: dict[str, Any], said: str) -> None:
    assert said in refusal(**given).message


def test_out_indices_imply_features() -> None:
    made = request(out_indices="1,3")
    assert made.shared["features"] is True
    assert made.shared["out_indices"] == (1, 3)


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        ({"batch_size": 4}, (4, 4, 4)),
        ({"dynamic_batch": True}, (1, 1, None)),
        ({"dynamic_batch": True, "batch_size": 4}, (1, 4, None)),
        ({"batch_max": 8}, (1, 1, 8)),
        ({"batch_min": 2, "batch_max": 8}, (2, 2, 8)),
        ({"batch_opt": 4, "batch_max": 8}, (1, 4, 8)),
    ],
)
def test_batches(given: dict[str, Any], batch: tuple[int, int, int | None]) -> None:
    assert request(**given).batch == batch


@pytest.mark.parametrize("name", ["batch_size", "batch_min", "batch_opt", "batch_max"])
def test_batches_without_end_are_refused(name: str) -> None:
    assert f"{flag(name)} is at most" in refusal(**{name: 10**10}).message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_classes": -3}, "--num-classes is at least 1, not -3"),
        ({"num_classes": 2.5}, "--num-classes wants a whole number"),
        ({"num_classes": True}, "--num-classes wants a whole number"),
        ({"input_size": (3, -1, 0)}, "--input-size is at least 1, not 3 -1 0"),
        ({"input_size": (3, 224)}, "--input-size wants 3 whole numbers (C H W)"),
        ({"batch_size": 0}, "--batch-size is at least 1"),
        ({"batch_size": 128, "batch_max": 64}, "--batch-size 128 is not between --batch-min and"),
        ({"batch_size": 100, "batch_opt": 8}, "--batch-size 100 and --batch-opt 8 disagree"),
        ({"batch_min": 4, "batch_max": 2}, "--batch-min 4 is not less than --batch-max 2"),
        ({"batch_opt": 9, "batch_max": 8}, "--batch-opt 9 is not between"),
        ({"in_chans": 1, "input_size": (3, 64, 64)}, "--in-chans 1 and --input-size 3 64 64"),
        ({"features": True, "embedding": True}, "--features and --embedding exclude each other"),
        ({"features": True, "softmax": True}, "--softmax is about classes"),
        ({"embedding": True, "num_classes": 10}, "--num-classes is about classes"),
        ({"mean": (0.5, 0.5), "in_chans": 3}, "--mean has 2 values for 3 channels"),
        ({"std": (0.1, 0.0, 0.1)}, "--std must be above zero"),
        ({"std": (float("nan"),)}, "--std wants numbers"),
        ({"verify": False, "require_verified": True}, "makes no sense with --no-verify"),
        ({"verify": False, "probe_data": "images"}, "makes no sense with --no-verify"),
        ({"precision": "fp61"}, "--precision is one of fp32, fp16"),
        ({"level": "high"}, "--level wants a whole number"),
        ({"labels": "imagenet-1k"}, "pocket does not support --labels: there is no room"),
        ({"calibration_data": "images"}, "pocket has no option --calibration-data"),
    ],
    ids=str,
)
def test_nonsense_is_refused_in_one_line(given: dict[str, Any], words: str) -> None:
    assert words in refusal(**given).message


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"levle": 3}, "did you mean --level?"),
        ({"input_siez": 3}, "--input-size"),
        ({"precision": "fp61"}, "did you mean fp16?"),
        ({"batch_min": 4, "batch_max": 2}, "--batch-size"),
    ],
)
def test_a_near_match_is_hinted_at(given: dict[str, Any], hint: str) -> None:
    assert hint in refusal(**given).hint


def test_a_calibrated_precision_wants_images() -> None:
    with pytest.raises(RequestError, match="needs images to calibrate with"):
        make_request(Calibrated(), "resnet18", {"precision": "int8"})
    given = {"precision": "int8", "calibration_data": "x", "random_calibration": True}
    with pytest.raises(RequestError, match="exclude each other"):
        make_request(Calibrated(), "resnet18", given)
    given = {"precision": "int8", "random_calibration": True, "calibration_preprocessed": True}
    with pytest.raises(RequestError, match="--calibration-preprocessed exclude each other"):
        make_request(Calibrated(), "resnet18", given)
    with pytest.raises(RequestError, match="--calibration-samples makes no sense with"):
        make_request(Calibrated(), "resnet18", {"calibration_samples": 3})


def test_a_format_without_calibrated_precisions_offers_no_calibration() -> None:
    names = {option.name for option in options_of(PocketBackend())}
    assert not {n for n in names if "calibration" in n}
    assert {n for n in (o.name for o in options_of(Calibrated())) if "calibration" in n}


class Grouped(Calibrated):
    """Has an option that is about some precisions only."""

    options = (
        *PocketBackend.options,
        Option("block_size", "int", "Values with one scale.", 32, precisions=("int8",)),
    )


def test_an_option_of_some_precisions_is_refused_with_the_others() -> None:
    given = {"precision": "int8", "random_calibration": True}
    assert make_request(Grouped(), "resnet18", given).options["block_size"] == 32
    assert make_request(Grouped(), "resnet18", given | {"block_size": 8}).options["block_size"] == 8
    assert make_request(Grouped(), "resnet18", {}).options["block_size"] == 32
    with pytest.raises(
        RequestError, match="--block-size makes no sense with --precision fp32"
    ) as e:
        make_request(Grouped(), "resnet18", {"block_size": 32})
    assert e.value.hint == "it is for --precision int8"


def test_an_option_is_for_precisions_that_there_are() -> None:
    class Mistaken(PocketBackend):
        options = (Option("block_size", "int", "Values with one scale.", precisions=("int3",)),)

    with pytest.raises(InvalidBackendError, match=r"block_size is for .*int3"):
        check_backend(Mistaken())


def test_run_options_are_those_of_the_run_alone() -> None:
    assert run_options(PocketBackend(), {}) == {"threads": 1}
    assert run_options(PocketBackend(), {"threads": "2"}) == {"threads": 2}
    with pytest.raises(RequestError, match="no option --level"):
        run_options(PocketBackend(), {"level": 3})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (Option("a", "ints", ""), "1, 2,3", (1, 2, 3)),
        (Option("a", "floats", ""), [0.5, 1], (0.5, 1.0)),
        (Option("a", "str", "", multiple=True), "one", ("one",)),
        (Option("a", "str", "", multiple=True), ["one", "two"], ("one", "two")),
        (Option("a", "path", ""), "x/../y", "x/../y"),
        (Option("a", "int", "", 3), None, 3),
        (Option("a", "int", ""), 4.0, 4),
    ],
)
def test_values_become_what_the_option_declares(option: Option, value: Any, expected: Any) -> None:
    assert coerce(option, value) == expected
