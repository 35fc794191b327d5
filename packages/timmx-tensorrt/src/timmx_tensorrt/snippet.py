"""Lines of Python that run an engine with the library's own API, or its ONNX in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timmx_onnx.providers import EXACT_PRODUCTS


def lines(module: str, manifest: Mapping[str, Any]) -> str:
    """They find `path` and `x`, and leave `outputs`."""
    port = manifest["inputs"][0]["name"]
    outputs = [output["name"] for output in manifest["outputs"]]
    return (
        "import torch  # a build with CUDA: it holds the memory\n"
        f"import {module} as trt\n"
        'with open(path, "rb") as file:\n'
        "    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(file.read())\n"
        "if engine is None:\n"
        '    raise SystemExit("the library here does not load this engine")\n'
        "context = engine.create_execution_context()\n"
        "stream = torch.cuda.Stream()\n"
        f"tensors = {{{port!r}: torch.from_numpy(x).cuda()}}\n"
        f"taken = context.set_input_shape({port!r}, tuple(x.shape))\n"
        f"for name in {outputs!r}:\n"
        "    shape = tuple(context.get_tensor_shape(name))\n"
        '    tensors[name] = torch.empty(shape, device="cuda")\n'
        "for name, tensor in tensors.items():\n"
        "    context.set_tensor_address(name, tensor.data_ptr())\n"
        "torch.cuda.synchronize()\n"
        "if not taken or not context.execute_async_v3(stream.cuda_stream):\n"
        '    raise SystemExit("the engine does not take this input, or fails on it")\n'
        "stream.synchronize()\n"
        f"outputs = [tensors[name].cpu().numpy() for name in {outputs!r}]\n"
    )


def onnx_lines(manifest: Mapping[str, Any]) -> str:
    """They run the file of `--onnx-only` as it was verified (see `reference`)."""
    port = manifest["inputs"][0]["name"]
    outputs = [output["name"] for output in manifest["outputs"]]
    return (
        "import onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "# Without onnxruntime's own fusions, which mistake some operators of 8 bits.\n"
        "options.graph_optimization_level = "
        "onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC\n"
        "# Exact 8-bit products on any x86 processor.\n"
        f"options.add_session_config_entry{EXACT_PRODUCTS!r}\n"
        "session = onnxruntime.InferenceSession(\n"
        '    path, options, providers=["CPUExecutionProvider"]\n'
        ")\n"
        f"outputs = session.run({outputs!r}, {{{port!r}: x}})\n"
    )
