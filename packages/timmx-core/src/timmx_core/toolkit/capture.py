"""`torch.export`, once, the same for every format that starts from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Batch
from timmx_core.errors import ExportError, first_line, text_of
from timmx_core.process.interrupts import import_whole
from timmx_core.process.torch_state import fresh

if TYPE_CHECKING:
    import torch

# Large enough to be open for any use, small enough that N * H * W * C stays within int64.
OPEN_BATCH = 65536


class Capturer:
    """Captures modules with one request's batch dimension; implements `backend.Capture`.

    .. versionadded:: 0.1
    """

    def __init__(
        self, module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], batch: Batch
    ) -> None:
        self.module = module
        self.example_inputs = example_inputs
        self.batch = batch

    def __call__(
        self,
        module: torch.nn.Module | None = None,
        decompositions: Mapping[Any, Any] | None = None,
    ) -> torch.export.ExportedProgram:
        """See `backend.Capture`."""
        program = self._capture(self.module if module is None else module)
        return (
            program if decompositions is None else program.run_decompositions(dict(decompositions))
        )

    def _capture(self, module: torch.nn.Module) -> torch.export.ExportedProgram:
        _refuse_scripted(module)
        with fresh():
            return self._captured(module)

    def _captured(self, module: torch.nn.Module) -> torch.export.ExportedProgram:
        # What torch.export imports on first use.
        import_whole("torch._refs", "torch._decomp", "torch._dynamo", "torch.export._trace")
        import torch

        # Non-strict first: it runs the model's own Python and takes most. Strict analyses the
        # bytecode, and copes with some that branch on shapes.
        failures = []
        for strict in (False, True):
            try:
                with torch.no_grad():
                    return torch.export.export(
                        module, self.example_inputs, dynamic_shapes=self._shapes(), strict=strict
                    )
            except Exception as error:  # noqa: BLE001 - whatever the model's own code raises
                failures.append(error)
        raise self._explain(failures[0]) from failures[0]

    def _shapes(self) -> tuple[dict[int, Any], ...] | None:
        import torch

        least, _, most = self.batch
        if least == most:
            return None
        dim = torch.export.Dim("batch", min=least, max=most or OPEN_BATCH)
        return tuple({0: dim} for _ in self.example_inputs)

    def _explain(self, error: Exception) -> ExportError:
        text = text_of(error)
        where = module_in(text)
        place = f" in {where}" if where else ""
        if self.batch[0] != self.batch[2] and (
            "specializ" in text or "Constraints violated" in text
        ):
            return ExportError(
                f"torch.export: the model fixes its batch size{place}",
                "export one batch size with --batch-size N",
            )
        return ExportError(f"torch.export cannot capture the model{place}: {first_line(error)}")


def _refuse_scripted(module: torch.nn.Module) -> None:
    """:raises ExportError: TorchScript is in it, of which torch.export sees no Python."""
    import torch

    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = name.removeprefix("module.").removeprefix("module") or "the model"
            raise ExportError(
                f"torch.export cannot capture TorchScript, and {what} is scripted or traced",
                "give the module that it was made from",
            )


def module_in(text: str) -> str:
    """The innermost line of model code that a torch.export error names: "file.py:12 forward".

    .. versionadded:: 0.1
    """
    frames = re.findall(r'File "[^"]*?([^/"]+\.py)", line (\d+), in (\w+)', text)
    model_frames = [f for f in frames if f[0] != "wrapper.py"]
    if not model_frames:
        return ""
    file, line, function = model_frames[-1]
    return f"{file}:{line} {function}"


def example_batch(batch: Batch) -> int:
    """The batch size that capture runs with.

    torch.export treats 0 and 1 as constants, so that a dynamic batch is captured with another.

    .. versionadded:: 0.1
    """
    least, opt, most = batch
    if least == most:
        return least
    size = max(opt, least, 2)
    return size if most is None else min(size, most)
