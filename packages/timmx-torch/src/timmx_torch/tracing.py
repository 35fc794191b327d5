"""A module as TorchScript, and what TorchScript says where it cannot. Imports torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

from timmx_core.errors import ExportError
from timmx_core.toolkit.frozen_values import trace_and_find


def to_script(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], method: str, freeze: bool
) -> tuple[torch.jit.ScriptModule, tuple[str, ...]]:
    """Trace or script `module`.

    :param freeze: weights become constants of the graph, and what depends on them is folded.
    :return: the script, and the places where tracing froze values of the example.
    :raises ExportError: names the place in the model's code.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing says so of every shape that it fixes
            places: tuple[str, ...] = ()
            if method == "trace":
                script, places = trace_and_find(lambda: _trace(module, example))
            else:
                script = torch.jit.script(module)
            frozen: torch.jit.ScriptModule = torch.jit.freeze(script.eval()) if freeze else script
            return frozen, places
    except (MemoryError, OSError):
        raise
    except Exception as error:  # TorchScript raises whatever the model's code raises
        raise explain(error, method) from error


def _trace(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    trace: Callable[..., Any] = torch.jit.trace
    # Whether the trace holds for other inputs is what verification finds out, as far as they
    # go other ways; where it may not hold is told.
    return trace(module, example, strict=False, check_trace=False)


def explain(error: Exception, method: str) -> ExportError:
    """What TorchScript stumbled over, and where."""
    text = str(error).strip() or type(error).__name__
    reason = next((line.strip() for line in text.splitlines() if line.strip()), text)
    places = re.findall(r'File "[^"]*?([^/"]+\.py)", line (\d+)', text)
    where = f" ({places[0][0]}:{places[0][1]})" if places else ""
    hint = "use --method trace" if method == "script" else ""
    return ExportError(f"torch.jit.{method} cannot convert the model: {reason}{where}", hint)
