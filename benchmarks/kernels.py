"""Where onnxruntime spends an inference: the time of each kind of operator in exported files.

    python benchmarks/kernels.py    # writes results/kernels-onnx.json

onnxruntime's own profile of thirty runs with one thread, in fp32, of a CNN, a network of small
layers and two transformers. The table in the documentation is made by `benchmarks/tables.py`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from latency import image_of, session_options  # type: ignore[import-not-found]

OUT = Path(__file__).parent / "results" / "kernels-onnx.json"
MODELS = (
    *("resnet18", "mobilenetv3_small_100"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)
RUNS = 30


def profile(path: Path, folder: Path) -> dict[str, float]:
    """Milliseconds of one run by kind of operator, the largest first."""
    import onnxruntime

    options = session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    for _ in range(RUNS):
        session.run(None, {port.name: image_of(port.shape)})
    spent: collections.Counter[str] = collections.Counter()
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: round(micro / RUNS / 1e3, 3) for name, micro in spent.most_common()}


def main() -> None:
    """All models again; it takes a minute or two."""
    import timmx_core
    from timmx_core.files.manifest import versions_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    rows = {}
    for model in parser.parse_args().models.split(","):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "model.onnx"
            timmx_core.export("onnx", model, output=str(path), verify=False)
            rows[model] = profile(path, Path(name))
        print(model, rows[model], flush=True)
    content = {
        "command": "python benchmarks/kernels.py",
        "versions": versions_of({"timm", "torch", "onnx", "onnxruntime", "onnxscript"}),
        "rows": rows,
    }
    OUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
