"""Compare ways to quantize tf_efficientnet_lite0, with its real weights and twenty photographs.

    python benchmarks/calibration.py    # writes results/calibration-onnx.json

Ten photographs calibrate, the other ten are judged: decibels against the float file, how many get
the same class, and the processor time of one image. Needs the packages of the test environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

import numpy as np  # noqa: E402
import testdata  # noqa: E402

OUT = HERE / "results" / "calibration-onnx.json"
HALF = 10


def images(folder: Path) -> np.ndarray:
    """The photographs as the model takes them."""
    import timm
    import torch
    from PIL import Image

    model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    photographs = [Image.open(p.path).convert("RGB") for p in testdata.photographs()]
    array: np.ndarray = torch.stack([transform(image) for image in photographs]).numpy()
    return array


def ways(source: Path, scratch: Path, photographs: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Every way by name, and what it makes of the float file: a graph, or a file."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as plain_dynamic

    from timmx_onnx import quantization

    batches = [{"input": image[None]} for image in photographs[:HALF]]
    for method in quantization.METHODS:
        ranges = quantization.calibrate(source, batches, method, scratch)
        yield f"int8, {method}", quantization.insert_qdq(source, ranges)
        if method == quantization.METHODS[0]:
            layers = quantization.insert_qdq(source, ranges, operators=quantization.LAYERS)
            yield "int8, layers alone", layers
    yield "dynamic-int8", quantization.quantize_dynamic(source, scratch)
    target = scratch / "integers.onnx"
    plain_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
    yield "dynamic, convolutions in integers", target


def runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A file as a function of one image."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {"input": image[None]})[0][0]
        return logits

    return run


def judge(path: Path, want: np.ndarray, photographs: np.ndarray) -> dict[str, Any]:
    """A file on the photographs that nothing was calibrated with."""
    from timmx_core.verification.measure import decibels

    run = runner(path)
    run(photographs[0])
    start = time.process_time()
    got = np.stack([run(image) for image in photographs])
    spent = (time.process_time() - start) / len(photographs)
    signal, noise = ((want - want.mean(0)) ** 2).mean(), ((want - got) ** 2).mean()
    return {
        "snr_db": round(decibels(float(signal), float(noise)), 2),
        "agree": int((got.argmax(1) == want.argmax(1)).sum()),
        "ms": round(spent * 1e3, 1),
        "size": path.stat().st_size,
    }


def main() -> None:
    """Everything again; it takes a minute."""
    import onnx_ir as ir

    import timmx_core
    from timmx_core.files.manifest import versions_of

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "float.onnx"
        model = testdata.write_lite0(folder / "lite0")
        timmx_core.export("onnx", f"local-dir:{model}", pretrained=True, output=str(source))
        photographs = images(model)
        others = photographs[HALF:]
        run = runner(source)
        want = np.stack([run(image) for image in others])
        rows["fp32"] = judge(source, want, others)
        for label, made in ways(source, folder, photographs):
            path = made if isinstance(made, Path) else folder / "made.onnx"
            if path is not made:
                ir.save(made, path)
            rows[label] = judge(path, want, others)
            print(label, rows[label], flush=True)
    versions = versions_of({"timm", "torch", "onnx", "onnxruntime"})
    content = {"command": "python benchmarks/calibration.py", "versions": versions, "rows": rows}
    OUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
