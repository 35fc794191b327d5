"""Figures of the measure beside its verdict; the verdicts are in test_verification_measure."""

from __future__ import annotations

import numpy as np
import pytest

from timmx_core.results import Measurement
from timmx_core.verification.measure import CAP_DB, Reference, decibels, measure

PROBES, CLASSES = 8, 100


def a_reference(values: np.ndarray, shape: tuple[int, ...] = (CLASSES,)) -> Reference:
    return Reference("output", shape, values.astype(np.float32), None, classes=len(shape) == 1)


@pytest.fixture
def values() -> np.ndarray:
    """A common part that makes the cosine of any two rows high, and a part of the input."""
    random = np.random.default_rng(0)
    common = 10 * random.standard_normal(CLASSES)
    return (common + random.standard_normal((PROBES, CLASSES))).astype(np.float32)


def rate(values: np.ndarray, got: np.ndarray, floor: float = 80.0) -> Measurement:
    return measure(a_reference(values), got, 1, floor, "file")


def test_top1_counts_the_probes_on_which_the_best_class_agrees(values: np.ndarray) -> None:
    got = values.copy()
    for probe in (0, 1):
        best, second = np.argsort(-got[probe])[:2]
        got[probe, [best, second]] = got[probe, [second, best]]
    row = rate(values, got, floor=-50.0)
    assert row.top1 == 6 / 8
    assert row.top5 == 1.0


def test_sampled_positions_are_compared_with_the_same_positions(values: np.ndarray) -> None:
    positions = np.array([3, 50, 99])
    reference = Reference("features_0", (CLASSES,), values[:, positions], positions)
    assert measure(reference, values, 1, 80.0, "file").status == "passed"
    got = values.copy()
    got[:, 50] *= 2
    assert measure(reference, got, 1, 80.0, "file").status == "failed"


def test_decibels_stay_within_the_cap() -> None:
    assert decibels(1.0, 0.1) == pytest.approx(10.0)
    assert decibels(1.0, 0.0) == CAP_DB
    assert decibels(0.0, 1.0) == -CAP_DB
    assert decibels(1.0, 1e-300) == CAP_DB


# ---------------------------------------------------------------- every row


def test_every_row_of_a_large_batch_counts(values: np.ndarray) -> None:
    """A batch of 16 for eight probes has two answers to each; the second may be the wrong one."""
    got = np.concatenate([values, values])
    assert rate(values, got).status == "passed"
    got[11] = np.nan
    assert rate(values, got).reason == f"{CLASSES} of {got.size} values are NaN or infinite"


def test_one_bad_row_is_not_averaged_away_by_many_good_ones(values: np.ndarray) -> None:
    """Of 256 rows one is another image's: over all rows that would be 21 dB, over its run 6."""
    got = np.tile(values, (32, 1))
    got[133] = got[134]
    row = rate(values, got, floor=12.0)
    assert row.status == "failed"
    assert row.snr_db == pytest.approx(6.0, abs=3.0)


@pytest.mark.parametrize("rows", [9, 15, 16])
def test_the_rows_that_fill_up_the_last_batch_count(values: np.ndarray, rows: int) -> None:
    got = values[np.arange(rows) % PROBES]
    assert rate(values, got).status == "passed"
    got[-1] *= 2
    assert rate(values, got).status == "failed"


def test_fewer_rows_than_probes_fail(values: np.ndarray) -> None:
    assert rate(values, values[:7]).reason == "7 results for 8 probes"


# ---------------------------------------------------------------- every channel

NOISE = {25.0: 1e-2, 5.0: 5e-2}  # of an honest file, relative to most channels


def boxes_and_scores() -> np.ndarray:
    """(8, 84, 50): four coordinates in pixels, and eighty scores of a thousandth."""
    random = np.random.default_rng(2)
    boxes = random.uniform(0, 640, (PROBES, 4, 50))
    scores = random.uniform(0, 2e-3, (PROBES, 80, 50))
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def rate_map(values: np.ndarray, got: np.ndarray, floor: float) -> Measurement:
    reference = Reference("output", values.shape[1:], values.reshape(PROBES, -1), None)
    return measure(reference, got, 1, floor, "file")


def only_a_channel_fails(row: Measurement) -> bool:
    """The figure of the whole output saw nothing."""
    assert row.snr_db is not None
    return row.status == "failed" and row.snr_db >= row.floor_db and "channel" in row.reason


def test_scores_do_not_hide_behind_boxes() -> None:
    values = boxes_and_scores()
    rounded = values * np.float32(1 + 1e-6)
    assert rate_map(values, rounded, 80.0).status == "passed"
    got = rounded.copy()
    got[:, 4:] = 0
    assert only_a_channel_fails(rate_map(values, got, 80.0))


@pytest.mark.parametrize("axis", [1, 2], ids=["channels first", "channels last"])
def test_one_lost_coordinate_is_named(axis: int) -> None:
    values = np.moveaxis(boxes_and_scores(), 1, axis)
    got = values * np.float32(1 + 1e-6)
    np.moveaxis(got, axis, 1)[:, 60] = 0
    row = rate_map(values, got, 80.0)
    assert only_a_channel_fails(row)
    assert "channel 60 of 84" in row.reason


@pytest.mark.parametrize("floor", [25.0, 5.0])
def test_lost_channels_do_not_hide_behind_a_massive_one(floor: float) -> None:
    """Transformers have channels hundreds of times the others. 100 of 384 are lost here."""
    random = np.random.default_rng(3)
    values = random.standard_normal((PROBES, 16, 384))
    values[..., 7] *= 300
    values = values.astype(np.float32)
    got = values + NOISE[floor] * random.standard_normal(values.shape).astype(np.float32)
    clean = rate_map(values, got, floor)
    assert clean.status == "passed", clean.reason
    got[..., 200:300] = 0
    assert only_a_channel_fails(rate_map(values, got, floor))


@pytest.mark.parametrize("floor", [40.0, 25.0])
def test_one_lost_class_of_a_thousand_is_named(floor: float) -> None:
    random = np.random.default_rng(4)
    values = random.standard_normal((PROBES, 1000)).astype(np.float32)
    values[:, 123] *= 0.01  # it hardly counts in the figure of the whole output
    reference = Reference("output", (1000,), values, None, classes=True)
    got = values + np.float32(1e-6) * random.standard_normal(values.shape).astype(np.float32)
    assert measure(reference, got, 1, floor, "file").status == "passed"
    got[:, 123] = values[:, 123].mean()
    row = measure(reference, got, 1, floor, "file")
    assert only_a_channel_fails(row)
    assert "channel 123 of 1000" in row.reason
    assert row.channel_db == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize("floor", [80.0, 30.0, 12.0, 5.0])
def test_channels_of_an_honest_file_pass_however_unlike_they_are(floor: float) -> None:
    """Each as noisy as its size: probabilities from 1e-9 to 1, and channels of every scale."""
    random = np.random.default_rng(5)
    relative = 10 ** (-floor / 20) / 2
    logits = 6 * random.standard_normal((PROBES, 1000))
    noisy = logits + relative * 6 * random.standard_normal(logits.shape)
    for values, got in (
        (np.exp(logits), np.exp(noisy)),
        (logits * np.logspace(-4, 2, 1000), noisy * np.logspace(-4, 2, 1000)),
    ):
        values, got = values.astype(np.float32), got.astype(np.float32)
        reference = Reference("output", (1000,), values, None, classes=True)
        row = measure(reference, got, 1, floor, "file")
        assert "channel" not in row.reason, row.reason


def test_no_channel_is_rated_where_noise_may_exceed_the_signal(values: np.ndarray) -> None:
    row = rate(values, values, floor=-10.0)
    assert (row.channel_db, row.channel_floor_db) == (None, None)


def test_a_slice_that_is_sampled_is_found_among_sampled_positions() -> None:
    """As a manifest keeps a large map: 500 of its positions."""
    random = np.random.default_rng(6)
    values = random.standard_normal((PROBES, 32, 20, 20)).astype(np.float32)
    positions = np.sort(random.choice(32 * 400, 500, replace=False))
    kept = values.reshape(PROBES, -1)[:, positions]
    reference = Reference("features_0", (32, 20, 20), kept, positions, layout="NCHW")
    got = values * np.float32(1 + 1e-6)
    assert measure(reference, got, 1, 25.0, "file").status == "passed"
    got[:, 5] = 0
    row = measure(reference, got, 1, 10.0, "file")
    assert only_a_channel_fails(row)
    assert "channel 5 of 32" in row.reason


@pytest.mark.parametrize("lost", [100, 190, 250, 383])
def test_channels_do_not_hide_by_being_most_of_them(lost: int) -> None:
    """The more are lost, the more they look like the noise to expect."""
    random = np.random.default_rng(7)
    values = random.standard_normal((PROBES, 384, 16))
    values[:, 0] *= 300
    values = values.astype(np.float32)
    got = values + np.float32(5e-2) * random.standard_normal(values.shape).astype(np.float32)
    assert rate_map(values, got, 5.0).status == "passed"
    got[:, 1 : 1 + lost] = 0
    assert only_a_channel_fails(rate_map(values, got, 5.0))


@pytest.mark.parametrize(("constant", "given"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_channel_that_is_constant_must_have_the_right_value(
    constant: float, given: float
) -> None:
    random = np.random.default_rng(8)
    values = random.standard_normal((PROBES, 1000)).astype(np.float32)
    values[:, 5] = constant
    got = values + np.float32(1e-3) * random.standard_normal(values.shape).astype(np.float32)
    reference = Reference("output", (1000,), values, None, classes=True)
    assert measure(reference, got, 1, 25.0, "file").status == "passed"
    got[:, 5] = given
    row = measure(reference, got, 1, 25.0, "file")
    assert only_a_channel_fails(row)
    assert "channel 5 of 1000, which is constant" in row.reason


@pytest.mark.parametrize("loud", [1.0, 30.0])
def test_the_answer_to_another_image(loud: float) -> None:
    """One of eight at a low floor, or all but a loud one."""
    random = np.random.default_rng(9)
    values = random.standard_normal((PROBES, 64, 14, 14)).astype(np.float32)
    values[0] *= np.float32(loud)
    got = values * np.float32(1.01)
    assert rate_map(values, got, 5.0).status == "passed"
    if loud > 1:
        got[1:] = got[1:][::-1]
    else:
        got[3] = got[4]
    row = rate_map(values, got, 5.0)
    assert row.status == "failed"
    assert "is another's" in row.reason  # which is looked at last: all figures have passed
