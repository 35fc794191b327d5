"""A module as TorchScript, and what TorchScript says where it cannot. Imports torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

from timmx_core.errors import ExportError


def to_script(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], method: str, freeze: bool
) -> torch.jit.ScriptModule:
    """Trace or script `module`.

    :param freeze: weights become constants of the graph, and what depends on them is folded.
    :raises ExportError: names the place in the model's code.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing says so of every shape that it fixes
            script = _trace(module, example) if method == "trace" else torch.jit.script(module)
            frozen: torch.jit.ScriptModule = torch.jit.freeze(script.eval()) if freeze else script
            return frozen
    except (MemoryError, OSError):
        raise
    except Exception as error:  # TorchScript raises whatever the model's code raises
        raise explain(error, method) from error


def _trace(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    trace: Callable[..., Any] = torch.jit.trace
    # Whether the trace holds for other inputs is what verification finds out.
    return trace(module, example, strict=False, check_trace=False)


def explain(error: Exception, method: str) -> ExportError:
    """What TorchScript stumbled over, and where."""
    text = str(error).strip() or type(error).__name__
    reason = next((line.strip() for line in text.splitlines() if line.strip()), text)
    places = re.findall(r'File "[^"]*?([^/"]+\.py)", line (\d+)', text)
    where = f" ({places[0][0]}:{places[0][1]})" if places else ""
    hint = "use --method trace" if method == "script" else ""
    return ExportError(f"torch.jit.{method} cannot convert the model: {reason}{where}", hint)
