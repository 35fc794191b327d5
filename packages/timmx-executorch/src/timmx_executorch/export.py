"""One export, from a loaded model to an ExecuTorch program in staging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx_core.backend import (
    Artifact,
    Comparison,
    Context,
    ExportRequest,
    LoadedModel,
    TensorSpec,
)
from timmx_core.errors import ExportError
from timmx_core.toolkit.batches import bounded, in_batches
from timmx_core.toolkit.capture import Capturer
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB
from timmx_executorch import quantization
from timmx_executorch.delegates import DEFAULT, DELEGATES, Delegate, parse
from timmx_executorch.lowering import Lowered, lower

if TYPE_CHECKING:
    import torch

    from timmx_executorch.quantization import Quantized

MOST_BATCH = 16  # where no largest batch was asked for: memory is planned for one
INTEGERS = ("int8", "dynamic-int8")


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Capture, quantize, lower, write.

    :raises ExportError: names the operator that cannot be lowered, and its module.
    """
    return _Export(model, request, context).run()


class _Export:
    def __init__(self, model: LoadedModel, request: ExportRequest, context: Context) -> None:
        self.request = request
        self.context = context
        self.delegates = parse(request.options["delegate"])
        self.batch = bounded(request.batch, MOST_BATCH)
        self.notes: list[str] = []
        self.report: dict[str, Any] = {}
        if self.batch != request.batch:
            self.notes.append(
                f"the program takes up to {self.batch[2]} images; --batch-max N changes that"
            )
            model = replace(
                model,
                inputs=tuple(self._bounded(port) for port in model.inputs),
                outputs=tuple(self._bounded(port) for port in model.outputs),
                capture=Capturer(model.module, model.example_inputs, self.batch),
            )
        self.loaded = model

    def run(self) -> Artifact:
        with self.context.stage("capture"):
            program = self.loaded.capture()
        if self.request.precision.name in INTEGERS:
            with self.context.stage("quantize"):
                program = self._quantized(program)
        names = ", ".join(d.name for d in self.delegates)
        with self.context.stage(f"lower for {names}"):
            lowered = self._lower(program, self.delegates, self.context.primary)
        if self.request.options["report"]:
            self.notes += lowered.notes
        return Artifact(
            primary=self.context.primary,
            inputs=self.loaded.inputs,
            outputs=self.loaded.outputs,
            comparisons=tuple(self._further(program)),
            report={**lowered.report, **self.report},
            notes=tuple(self.notes),
        )

    def _lower(
        self, program: torch.export.ExportedProgram, delegates: tuple[Delegate, ...], path: Path
    ) -> Lowered:
        return lower(
            program,
            delegates,
            self.request.precision.name,
            self.loaded.inputs,
            self.loaded.outputs,
            path,
        )

    def _further(self, program: torch.export.ExportedProgram) -> Iterator[Comparison]:
        """Everything up to lowering, where the file itself can hardly be run here."""
        if any(d.name != DEFAULT for d in self.delegates) and self.request.shared["verify"]:
            folder = self.context.staging / "captured"
            folder.mkdir()
            path = folder / "captured.pte"
            with self.context.stage(f"lower for {DEFAULT} instead"):
                self._lower(program, (DELEGATES[DEFAULT],), path)
            label = f"exported program, lowered for {DEFAULT} instead"
            yield Comparison(label, got=path, floor_db=FLOAT_FLOOR_DB)

    # ---- int8

    def _quantized(self, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        self._check_float(program)
        per_channel = self.request.options["per_channel"]
        if self.request.precision.name == "int8":
            images = list(self.context.calibration(self._size()))
            found = self._static(program, images, per_channel)
        else:
            example = next(self._probes())
            found = quantization.quantize_dynamic(program, example, per_channel=per_channel)
        if not quantization.holds_integers(found.module):
            raise ExportError(
                f"no layer of the model can be had in --precision {self.request.precision.name}",
                "leave it in --precision fp32",
            )
        self.report["per_channel"] = per_channel
        self.report["quantized_snr_db"] = round(self._rate(found.module), 2)
        return self.loaded.capture(found.module)

    def _static(
        self,
        program: torch.export.ExportedProgram,
        images: list[Mapping[str, np.ndarray]],
        per_channel: bool,
    ) -> Quantized:
        whole, layers = quantization.quantize_static(program, images, per_channel=per_channel)
        found = quantization.nearer(whole, layers)
        if found is layers:
            self.notes.append(
                f"only layers are in int8: {layers.snr_db:.1f} dB on the calibration images, "
                f"instead of {whole.snr_db:.1f} with what stands between them"
            )
        self.report["calibration_snr_db"] = round(found.snr_db or 0.0, 2)
        self.report["layers_only"] = found.layers_only
        return found

    def _check_float(self, program: torch.export.ExportedProgram) -> None:
        """The floor of int8 lets much pass: what is quantized must be right to begin with.

        :raises ExportError: it is not what PyTorch gives.
        """
        snr_db = self._rate(program.module())
        self.report["float_snr_db"] = round(snr_db, 2)
        floor_db = self.request.lowered(FLOAT_FLOOR_DB)
        if snr_db < floor_db:
            raise ExportError(
                f"the captured program is wrong before it is quantized: {snr_db:.1f} dB against "
                f"PyTorch, where {floor_db:g} is the floor"
            )

    def _rate(self, module: Any) -> float:
        """How near a program comes to PyTorch, over the images of the verification."""
        found = quantization.answers(module, self._probes())
        names = [port.name for port in self.loaded.outputs]
        return self.context.snr_db(dict(zip(names, found, strict=True)))

    def _probes(self) -> Iterator[Mapping[str, np.ndarray]]:
        port = self.loaded.inputs[0]
        for images in in_batches(self.context.probes(port), self._size()):
            yield {port.name: images}

    # ---- batch

    def _size(self) -> int:
        return len(self.loaded.example_inputs[0])

    def _bounded(self, port: TensorSpec) -> TensorSpec:
        return replace(port, shape=(self.batch, *port.shape[1:]))
