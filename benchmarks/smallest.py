"""List the smallest architecture of each of timm's families, by parameters, as JSON.

    python benchmarks/smallest.py

A family is a module of `timm.models`. Nothing is downloaded, and no weight is made: the models are
built on the meta device, of large families those only whose names promise the least. The list is
kept with the version of timm that it was made of.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

TRIED = 10  # of one family
# Words of small models, the smallest first, and of large ones.
SMALL: tuple[str, ...] = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xx_small",
    "extra_tiny",
    "xtiny",
    "tiny",
    "_ti",
)
SMALL += ("xs", "x_small", "050", "small", "_s", "m0", "s0", "b0", "_0", "mini", "light", "_t")
LARGE = ("large", "huge", "giant", "gigantic", "so400m", "_xl", "xxl", "_l", "_h", "_g", "base")

RESULTS = Path(__file__).parent / "results" / "smallest.json"


def promise(name: str) -> tuple[int, int, int, str]:
    """Sorts the names of a family by the size that they promise."""
    rank = next((i for i, word in enumerate(SMALL) if word in name), len(SMALL))
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return (sum(word in name for word in LARGE), rank, sum(numbers[:2]), name)


def parameters(name: str) -> int | None:
    """How many; None where the model cannot be built on the meta device."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def smallest(module: str) -> dict[str, Any] | None:
    """The smallest of a family that is no toy for tests; None where none can be built."""
    import timm

    sizes: dict[str, int] = {}
    names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
    for name in sorted(names, key=promise)[:TRIED]:
        size = parameters(name)
        if size:
            sizes[name] = size
    if not sizes:
        return None
    name = min(sizes, key=lambda n: (sizes[n], n))
    return {"model": name, "parameters": sizes[name], "tried": len(sizes), "of": len(names)}


def main() -> None:
    """Write the list, family by family."""
    import timm

    warnings.simplefilter("ignore")
    content: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if content.get("timm") != timm.__version__:
        content = {"command": "python benchmarks/smallest.py", "timm": timm.__version__, "rows": {}}
    rows = content["rows"]
    for module in timm.list_modules():
        if module not in rows:
            row = smallest(module)
            if row is not None:
                rows[module] = row
                print(module, row, flush=True)
                RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
