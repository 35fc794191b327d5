"""What says nothing of a file is called inconclusive, now and later, and can be accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket_format import PocketBackend
from torch import nn

from timmx_core import api
from timmx_core.errors import VerificationError
from timmx_core.files import manifest as manifests
from timmx_core.results import ExportResult, Verdict
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, Trunk, tiny_cnn
from timmx_core.verification import probes
from timmx_core.verification.measure import Reference, measure
from timmx_core.verification.sampling import SAMPLES, sampled

LARGE = (3, 64, 64)
COUNT = 8 * 32 * 32  # of the values that a trunk makes of them
BLIND = set(probes.positions(COUNT, SAMPLES).tolist())
MISSED = [position for position in range(COUNT) if position not in BLIND][:3]


class Masked(nn.Module):
    """A large map that is nothing, or not a number, but at a few positions."""

    def __init__(self, values: dict[int, float]) -> None:
        super().__init__()
        self.trunk = Trunk()
        mask = torch.zeros(COUNT)
        for position, value in values.items():
            mask[position] = value
        self.register_buffer("mask", mask.reshape(1, 8, 32, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        masked: torch.Tensor = self.trunk(x) * self.mask
        return masked


class WithConstant(nn.Module):
    """Logits, and a table beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_cnn()
        self.register_buffer("table", torch.arange(4.0).reshape(1, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(x)
        return logits, self.table.expand(logits.shape[0], 4)  # type: ignore[operator]


def unlearned(value: float) -> nn.Module:
    """What diverging training leaves."""
    model: Any = tiny_cnn()
    model.head.weight.data[3] = value
    return model  # type: ignore[no-any-return]


def export(model: nn.Module, folder: Path, **given: Any) -> ExportResult:
    options = {"input_size": INPUT_SIZE, "output": folder / "model.pocket"} | given
    return api.export("pocket", model, manager=manager_of(PocketBackend()), **options)


def later(folder: Path) -> Verdict:
    return api.verify(folder / "model.pocket", manager=manager_of(PocketBackend()))


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda: unlearned(float("nan")), {}),
        (lambda: unlearned(float("inf")), {}),
        (tiny_cnn, {"std": (1e-300,) * 3}),
        (lambda: Masked({0: 1.0, MISSED[0]: float("inf")}), {"input_size": LARGE}),
    ],
    ids=["NaN", "infinite", "infinite input", "infinite where a sample misses it"],
)
def test_values_that_pytorch_itself_gets_wrong(
    tmp_path: Path, make: Any, given: dict[str, Any]
) -> None:
    with pytest.raises(VerificationError, match="PyTorch itself gives NaN") as caught:
        export(make(), tmp_path, **given)
    assert caught.value.hint.startswith("look in PyTorch for the weights")
    assert not list(tmp_path.iterdir())
    result = export(make(), tmp_path, accept_inconclusive=True, **given)
    assert result.manifest["reference"][0]["signal"] is None
    for verdict in (result.verdict, later(tmp_path)):
        assert verdict.status == "inconclusive"
        assert "PyTorch itself gives NaN" in verdict.reason
    found = api.inspect(tmp_path / "model.pocket", manager=manager_of(PocketBackend()))
    assert found.intact
    assert not found.problems


def test_figures_that_are_no_numbers_are_left_out() -> None:
    values = np.arange(8, dtype=np.float32).reshape(8, 1)
    reference = Reference("output", (1,), values, None)
    row = measure(reference, np.full((8, 1), 1e300), 1, 80.0, "file")
    assert row.status == "failed"
    manifests.dump({"row": row.__dict__})


def test_what_blind_positions_miss_is_kept_as_well(tmp_path: Path) -> None:
    result = export(Masked(dict.fromkeys(MISSED, 1.0)), tmp_path, input_size=LARGE)
    assert result.verdict.status == "verified"
    verdict = later(tmp_path)
    assert verdict.status == "verified"


def test_positions_do_not_depend_on_the_last_bits() -> None:
    random = np.random.default_rng(0)
    values = np.zeros((8, 40_000), np.float32)
    values[:, 77] = random.standard_normal(8)
    values[:, 1000:1100] = 1e-3 * random.standard_normal((8, 100))
    one = sampled(Reference("output", (40_000,), values, None))
    shaken = values * (1 + 1e-6 * random.standard_normal(values.shape)).astype(np.float32)
    other = sampled(Reference("output", (40_000,), shaken, None))
    assert one.positions is not None
    assert 77 in one.positions
    assert len(one.positions) <= SAMPLES * 3 // 2
    assert np.array_equal(one.positions, other.positions)  # type: ignore[arg-type]


def test_where_blind_positions_suffice_they_are_all_there_is() -> None:
    values = np.random.default_rng(0).standard_normal((8, 40_000)).astype(np.float32)
    small = sampled(Reference("output", (40_000,), values, None))
    assert np.array_equal(small.positions, np.unique(probes.positions(40_000, SAMPLES)))  # type: ignore[arg-type]


def test_an_output_that_is_constant_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as caught:
        export(WithConstant(), tmp_path)
    assert caught.value.message.startswith("inconclusive: output output_1 at batch 1: PyTorch's")
    assert "the same for every probe, which says nothing of the file" in caught.value.message
    assert caught.value.hint.startswith("leave output_1 out of what the model returns")
    assert "--pretrained" not in caught.value.hint
    result = export(WithConstant(), tmp_path, accept_inconclusive=True)
    for verdict in (result.verdict, later(tmp_path)):
        assert verdict.status == "inconclusive"
        assert "output_1" in verdict.reason
        assert [row.status for row in verdict.measurements] == ["passed", "inconclusive"]
