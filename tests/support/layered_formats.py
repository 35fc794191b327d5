"""Formats that stand on the pocket format: one derives from it, one absorbs, one has companions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocket_format import PocketBackend, PocketRunner

from timmx_core.backend import (
    Artifact,
    Backend,
    Comparison,
    Context,
    ExportRequest,
    LoadedModel,
    Precision,
    Runner,
)
from timmx_core.errors import CannotRunHere


class CalibratedPocket(PocketBackend):
    """With a precision that wants calibration, which a derivation in fp32 does not."""

    precisions = (*PocketBackend.precisions, Precision("int8", "int8", "int8", 5.0, True))


class SealedBackend(Backend):
    """A pocket file with bytes before it, which only another machine could open."""

    name = "sealed"
    help = "A sealed pocket file."
    suffixes = (".sealed",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)
    derives = ("pocket",)
    source = "pocket given to the sealer"

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        pocket = context.derive("pocket", "fp32")
        context.primary.write_bytes(b"SEAL" + self.spoil(pocket.primary.read_bytes()))
        given = Comparison(
            self.source,
            got=pocket.primary,
            formats=("pocket", None),
            inputs=pocket.inputs,
            outputs=pocket.outputs,
        )
        return Artifact(context.primary, pocket.inputs, pocket.outputs, comparisons=(given,))

    def spoil(self, data: bytes) -> bytes:
        return data

    def check_run(self) -> None:
        raise CannotRunHere("nobody here has the key")

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        raise CannotRunHere("nobody here has the key")


class WrongSource(SealedBackend):
    """Derives from the pocket file of another model."""

    source = "another pocket file"
    other: Path

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        got = artifact.comparisons[0].got
        assert got is not None
        shutil.copyfile(self.other, got)
        return artifact


class AbsorbingBackend(PocketBackend):
    """Turns images around and scales pixels by itself, in its runner."""

    absorbs = frozenset({"nhwc", "uint8", "normalize"})

    class AbsorbingRunner(PocketRunner):
        def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            import numpy as np

            x = inputs["input"]
            if x.shape[-1] == 3:
                x = x.transpose(0, 3, 1, 2)
            if x.dtype == np.uint8:
                x = x.astype(np.float32) / np.float32(255)
            mean, std = self.graph["mean"], self.graph["std"]
            if mean:
                shape = (1, -1, 1, 1)
                x = (x - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)
            return super().run({"input": x})

    def describe(self, model: LoadedModel) -> dict[str, Any]:
        applied = "normalize" in model.absorb
        return {"mean": model.mean if applied else (), "std": model.std if applied else ()}

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        return replace(artifact, inputs=model.file_inputs, outputs=model.file_outputs)

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.AbsorbingRunner(path)


class PairBackend(PocketBackend):
    """A pocket file, and a file of notes beside it."""

    companion_suffixes = (".notes",)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        notes = context.primary.with_suffix(".notes")
        notes.write_text("notes")
        return replace(artifact, companions=(notes,))
