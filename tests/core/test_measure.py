"""Figures of the measure beside its verdict; the verdicts are in test_verification_measure."""

from __future__ import annotations

import numpy as np
import pytest

from timmx_core.measure import CAP_DB, Reference, decibels, measure
from timmx_core.results import Measurement

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
