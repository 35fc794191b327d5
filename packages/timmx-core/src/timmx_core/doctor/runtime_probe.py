"""Run by doctor as a script, in a process of its own: what torch and timm do when imported.

A broken torch may end the process. Each line on stdout is a JSON object with what is known so far,
so that the last line says how far it came. Standard library only.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

STEPS = ("torch", "torchvision", "timm")


def main() -> None:
    """Import one library after the other, telling of each before the next is tried."""
    out = sys.stdout
    sys.stdout = sys.stderr  # the libraries' own prints
    for name in STEPS:
        facts: dict[str, Any] = {"library": name, "started": True}
        print(json.dumps(facts), file=out, flush=True)
        try:
            facts |= _facts(import_module(name))
        except BaseException as error:  # noqa: BLE001 (SystemExit and all else is a finding)
            text = " ".join(str(error).split())
            facts["error"] = f"{type(error).__name__}: {text}"[:500]
        print(json.dumps(facts | {"started": False}), file=out, flush=True)


def _facts(module: ModuleType) -> dict[str, Any]:
    facts: dict[str, Any] = {"version": str(getattr(module, "__version__", ""))}
    if module.__name__ == "torch":
        facts["cuda"] = _cuda(module)
    return facts


def _cuda(torch: Any) -> dict[str, Any]:
    """What torch sees of CUDA. `built` is the version it was compiled for, None for CPU builds."""
    facts: dict[str, Any] = {"built": torch.version.cuda, "available": False, "devices": []}
    if torch.cuda.is_available():
        facts["available"] = True
        facts["devices"] = [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ]
    return facts


if __name__ == "__main__":
    main()
