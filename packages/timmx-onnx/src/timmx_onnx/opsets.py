"""Which ONNX opsets can be written here, and which one is written by default.

Constants, so that `--opset 99` is refused before torch loads; the package's floors (onnx,
onnxscript, onnxruntime) are those with which they hold, and a test compares them with what the
installed packages say of themselves.
"""

from __future__ import annotations

from timmx_core.errors import RequestError

# torch.onnx implements its operators in opset 18. For a lower one it converts the finished graph,
# and where that fails it writes opset 18 and says so only in a log.
OLDEST = 18
# The newest that onnxscript converts to; beyond it torch.onnx calls onnx's own converter, which
# knows no Gelu, for one, and then leaves a file that declares 18 and uses operators of 20.
NEWEST = 25
# 24 is the newest that onnxruntime 1.32 runs with kernels of its own: in opset 25 it has none for
# Attention on the CPU, and expands each into some 55 nodes (a ViT with fused attention: 982 nodes
# instead of 286, 10 % slower). Below 20, Gelu is taken apart; below 23, Attention is.
DEFAULT = 24


def check_opset(opset: int) -> None:
    """Refuse an opset that torch.onnx cannot write natively.

    :raises RequestError: with the range that it can write.
    """
    if opset < OLDEST:
        raise RequestError(
            f"--opset {opset} cannot be written: torch.onnx starts at opset {OLDEST}",
            f"opsets {OLDEST} to {NEWEST} can be written",
        )
    if opset > NEWEST:
        raise RequestError(
            f"--opset {opset} cannot be written: it is newer than what torch.onnx converts to",
            f"opsets {OLDEST} to {NEWEST} can be written",
        )
