"""The measure, and what is compared before it: no array that is wrong gets past."""

from __future__ import annotations

import numpy as np
import pytest

from timmx_core.backend import Artifact, TensorSpec
from timmx_core.results import Measurement
from timmx_core.verification.judge import compare, compare_labels, misstated_input
from timmx_core.verification.measure import Reference, measure
from timmx_core.verification.worker import Outcome

FLOOR = 80.0


@pytest.fixture
def truth() -> np.ndarray:
    """Eight probes' logits, which lie close together and far from zero: every cosine is high."""
    return (10 + np.random.default_rng(0).normal(size=(8, 10))).astype(np.float32)


def reference(values: np.ndarray, name: str = "output") -> Reference:
    flat = values.reshape(len(values), -1)
    return Reference(name, values.shape[1:], flat, None, classes=True, layout="NC")


def rate(truth: np.ndarray, got: np.ndarray, floor: float = FLOOR) -> Measurement:
    return measure(reference(truth), got, 1, floor, "file")


def test_rounding_passes_with_a_margin(truth: np.ndarray) -> None:
    row = rate(truth, np.nextafter(truth, np.float32(np.inf)))
    assert row.status == "passed"
    assert row.snr_db is not None
    assert row.snr_db > FLOOR + 20


def test_a_copy_is_capped(truth: np.ndarray) -> None:
    assert rate(truth, truth.copy()).snr_db == 200.0


@pytest.mark.parametrize("name", ["constant", "mean", "rolled", "x 1.01", "x 3", "shifted"])
def test_a_high_cosine_is_worth_nothing(truth: np.ndarray, name: str) -> None:
    got = {
        "constant": np.repeat(truth[:1], 8, 0),
        "mean": np.repeat(truth.mean(0, keepdims=True), 8, 0),
        "rolled": np.roll(truth, 1, 0),
        "x 1.01": truth * np.float32(1.01),
        "x 3": truth * np.float32(3),
        "shifted": truth + np.float32(0.1),
    }[name]
    row = rate(truth, got)
    assert row.status == "failed"
    assert row.cosine is not None
    assert row.cosine > 0.75


@pytest.mark.parametrize("name", ["constant", "mean", "rolled"])
def test_what_ignores_its_image_fails_at_the_lowest_floor(truth: np.ndarray, name: str) -> None:
    got = {
        "constant": np.repeat(truth[:1], 8, 0),
        "mean": np.repeat(truth.mean(0, keepdims=True), 8, 0),
        "rolled": np.roll(truth, 1, 0),
    }[name]
    row = rate(truth, got, floor=5.0)
    assert row.status == "failed"
    assert row.snr_db is not None
    # By definition, and on every machine: its noise is the signal, or more.
    assert row.snr_db <= 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number(truth: np.ndarray, value: float) -> None:
    got = truth.copy()
    got[5, 3] = value
    row = rate(truth, got)
    assert (row.status, row.reason) == ("failed", "1 of 80 values are NaN or infinite")


def test_nan_in_the_reference_is_inconclusive(truth: np.ndarray) -> None:
    truth[0, 0] = np.nan
    assert rate(truth, np.zeros_like(truth)).status == "inconclusive"


def test_other_shapes_of_as_many_elements(truth: np.ndarray) -> None:
    for shape in ((8, 2, 5), (8, 10, 1), (8, 1, 10)):
        assert rate(truth, truth.reshape(shape)).status == "failed"
    assert rate(truth, truth[:4]).status == "failed"


def test_whole_numbers_are_no_logits(truth: np.ndarray) -> None:
    assert rate(truth, truth.astype(np.int64)).status == "failed"


def test_an_uninformative_reference_is_never_a_pass(truth: np.ndarray) -> None:
    flat = np.ones_like(truth)
    assert rate(flat, flat).status == "inconclusive"
    nearly = (1 + 1e-7 * truth).astype(np.float32)
    assert rate(nearly, nearly).status == "inconclusive"


def test_a_wrong_file_fails_though_the_reference_is_uninformative(truth: np.ndarray) -> None:
    flat = np.ones_like(truth)
    assert rate(flat, np.full_like(flat, np.nan)).status == "failed"
    assert rate(flat, flat[:, :5]).status == "failed"


# ---------------------------------------------------------------- before the measure


def port(
    name: str = "output", shape: tuple[int, ...] = (1, 10), dtype: str = "float32"
) -> TensorSpec:
    return TensorSpec(name, shape, dtype, "logits", "NC")


def rows(
    truth: np.ndarray, outputs: dict[str, np.ndarray], *specs: TensorSpec
) -> list[Measurement]:
    outcome = Outcome("ok", outputs={1: outputs})
    return compare(outcome, specs, [reference(truth)], FLOOR, "file")


def test_a_good_output_passes(truth: np.ndarray) -> None:
    assert [row.status for row in rows(truth, {"output": truth}, port())] == ["passed"]


def test_a_missing_output(truth: np.ndarray) -> None:
    [row] = rows(truth, {"other": truth}, port())
    assert (row.status, row.reason) == ("failed", "the file does not give this output")


def test_an_output_that_the_file_does_not_describe(truth: np.ndarray) -> None:
    [row] = rows(truth, {"output": truth}, port("another"))
    assert (row.status, row.reason) == ("failed", "the file does not describe this output")


def test_an_output_of_another_dtype_than_stated(truth: np.ndarray) -> None:
    [row] = rows(truth, {"output": truth.astype(np.float64)}, port())
    assert (row.status, row.reason) == ("failed", "dtype float64 instead of float32")


def test_an_output_of_another_shape_than_stated(truth: np.ndarray) -> None:
    [row] = rows(truth, {"output": truth}, port(shape=(1, 11)))
    assert (row.status, row.reason) == ("failed", "shape (N, 10) instead of (N, 11)")


def test_a_dimension_that_is_open_is_not_compared(truth: np.ndarray) -> None:
    spec = TensorSpec("output", (1, (1, 10, None)), "float32", "logits", "NC")
    assert [row.status for row in rows(truth, {"output": truth}, spec)] == ["passed"]


@pytest.mark.parametrize(
    ("layout", "shape", "fits"),
    [
        ("NCHW", (1, 3, 24, 32), True),
        ("NHWC", (1, 24, 32, 3), True),
        ("NCHW", (1, 3, 48, 64), False),
        ("NCHW", (1, 3, 32, 24), False),
        ("NHWC", (1, 3, 24, 32), False),
    ],
)
def test_the_stated_input_size(layout: str, shape: tuple[int, ...], fits: bool) -> None:
    pixels = np.zeros((8, 24, 32, 3), np.uint8)
    spec = TensorSpec("input", shape, "float32", "image", layout)
    assert (misstated_input(spec, pixels) == "") is fits


def test_an_artifact_is_only_ports_and_paths() -> None:
    """The floor is the plugin's own word, never the file's."""
    assert not any("floor" in name for name in Artifact.__dataclass_fields__)


@pytest.mark.parametrize(
    ("label", "status"), [("cat (2)", "passed"), ("cat", "passed"), ("dog", "failed")]
)
def test_of_two_classes_with_one_name_either_spelling_is_right(label: str, status: str) -> None:
    ports = (
        TensorSpec("output", (1, 3), "float32", "probabilities", "NC"),
        TensorSpec("classLabel", (1,), "str", "label", "N"),
    )
    given = {"output": np.array([[0.1, 0.2, 0.7]], np.float32), "classLabel": np.array([label])}
    (row,) = compare_labels(Outcome("ok", outputs={1: given}), ports, ("cat", "dog", "cat"), FLOOR)
    assert row.status == status
