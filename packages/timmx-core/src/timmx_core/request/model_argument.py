"""Whether what is given as a model can be one; torch is not imported for it."""

from __future__ import annotations

import os
import sys
from typing import Any

from timmx_core.errors import RequestError


def check_type(model: Any) -> None:
    """Refuse what is neither a name nor a module; torch is not imported for it.

    :raises RequestError: says what it is instead.
    """
    torch = sys.modules.get("torch")
    if isinstance(model, str) or (torch is not None and isinstance(model, torch.nn.Module)):
        return
    if isinstance(model, os.PathLike):
        hint = 'a folder is "local-dir:PATH", weights are checkpoint=PATH beside timm\'s name'
    elif callable(model):
        hint = "call it, and give the module that it makes"
    else:
        hint = 'a model is timm\'s name, "hf-hub:org/name", "local-dir:PATH" or a torch.nn.Module'
    kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    raise RequestError(f"a model cannot be {kind}", hint)


def require_name(model: Any) -> None:
    """Refuse all but a name, where a module of this process cannot be taken.

    :raises RequestError: says so.
    """
    check_type(model)
    if not isinstance(model, str):
        raise RequestError(
            f"a model is given by its name here, and not as a module ({type(model).__name__})",
            'save it, and name it as "local-dir:PATH", or timm\'s name with checkpoint=PATH',
        )
