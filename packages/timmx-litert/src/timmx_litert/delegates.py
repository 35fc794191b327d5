"""Which operators of a file run elsewhere than in XNNPACK, and which a GPU would not take.

Both are asked of LiteRT itself: the interpreter shows what it handed to XNNPACK on this machine,
and its analyser knows what its delegate for GPUs takes.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

DELEGATE = "DELEGATE"
WARNING = re.compile(r"GPU COMPATIBILITY WARNING: (.*)")
MOST_LINES = 20


def outside_xnnpack(path: Path) -> dict[str, int]:
    """How many operators of each kind the interpreter computes by itself."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    taken = _delegated(nodes)
    rest = Counter(n["op_name"] for n in nodes if n["index"] not in taken)
    return dict(sorted(rest.items(), key=lambda item: (-item[1], item[0])))


def _delegated(nodes: list[Any]) -> set[int]:
    """The delegates' own nodes, and all between their inputs and their outputs."""
    delegates = [n for n in nodes if n["op_name"] == DELEGATE]
    producer = {int(t): n for n in nodes if n["op_name"] != DELEGATE for t in n["outputs"]}
    taken = {n["index"] for n in delegates}
    for delegate in delegates:
        given = {int(t) for t in delegate["inputs"]}
        wanted = [int(t) for t in delegate["outputs"]]
        while wanted:
            node = producer.get(wanted.pop())
            if node is not None and node["index"] not in taken:
                taken.add(node["index"])
                wanted += [int(t) for t in node["inputs"] if int(t) not in given]
    return taken


def gpu_warnings(path: Path) -> list[str]:
    """What LiteRT's analyser says a GPU would not take; empty: nothing."""
    from ai_edge_litert import _pywrap_analyzer_wrapper as analyzer

    text = analyzer.ModelAnalyzer(str(path), True, True)
    return list(dict.fromkeys(WARNING.findall(text)))[:MOST_LINES]
