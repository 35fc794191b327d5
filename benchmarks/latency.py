"""Compare how fast exported files run: precisions, ways to optimise, another exporter.

    python benchmarks/latency.py                                 # precisions of the default models
    python benchmarks/latency.py --peer ENVIRONMENT/bin/timmx    # and timmx 0.10.1's files
    python benchmarks/latency.py --models resnet18 --passes      # and what could optimise the graph
    python benchmarks/latency.py --format litert --passes        # in LiteRT, and without our passes
    python benchmarks/latency.py --format executorch --passes    # likewise

All files of a model hold the same weights. They are run in turn in one process, with one thread,
and compared by the median of their ratios in processor time, which says the same on a busy machine.
With two threads time is that of the clock.
Rows are kept in `results/latency-FORMAT.json`; `--again` runs them once more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
from reference import ARCHITECTURES, suffix_of  # type: ignore[import-not-found]

HERE = Path(__file__).parent
FIVE = (
    *("resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "fastvit_t8"),
    "swin_tiny_patch4_window7_224",
)
MODELS = {"onnx": ARCHITECTURES, "executorch": FIVE, "litert": FIVE}
LIBRARIES = {
    "executorch": {"executorch", "torchao"},
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
    "litert": {"ai-edge-litert", "ai-edge-quantizer", "litert-torch"},
}
PRECISIONS = ("fp32", "fp16", "int8", "dynamic-int8")
BASE = "fp32"


def write_weights(model: str, folder: Path) -> Path:
    """A checkpoint that both exporters load, with no layer that does nothing."""
    import timm
    import torch
    from safetensors.torch import save_file

    from timmx_core.models import inputs
    from timmx_core.models.build import Preprocessing
    from timmx_core.random_weights.informative import make_informative
    from timmx_core.verification import probes

    torch.manual_seed(0)
    network: Any = timm.create_model(model).eval()
    config = network.pretrained_cfg
    chans, height, width = config.get("test_input_size") or config["input_size"]
    preprocessing = Preprocessing((chans, height, width), config["mean"], config["std"])
    pixels = probes.make(probes.Recipe(height, width, chans))
    # Statistics of anything else than what the model sees would make float32 itself imprecise.
    make_informative(network, inputs.reference_input(pixels, preprocessing), 0)
    path = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


def files_of(
    model: str, weights: Path, folder: Path, chosen: argparse.Namespace
) -> dict[str, Path]:
    """Every file that is compared, by its label."""
    import timmx_core

    files: dict[str, Path] = {}
    suffix = suffix_of(chosen.format)
    for precision in chosen.precisions.split(","):
        path = folder / f"{precision}{suffix}"
        options: dict[str, Any] = {"precision": precision, "checkpoint": str(weights)}
        if precision == "int8":
            options |= {"random_calibration": True, "calibration_samples": 16}
        timmx_core.export(chosen.format, model, output=str(path), verify=False, **options)
        files[precision] = path
    if chosen.peer:
        files |= peers(model, weights, folder, chosen)
    if chosen.passes and chosen.format == "executorch":
        files["unoptimised"] = folder / f"unoptimised{suffix}"
        output = str(files["unoptimised"])
        with mock.patch("timmx_executorch.decompositions.apply", lambda program: program):
            timmx_core.export(
                chosen.format, model, output=output, verify=False, checkpoint=str(weights)
            )
    if chosen.passes and chosen.format == "litert":
        files["unoptimised"] = folder / f"unoptimised{suffix}"
        options = {"checkpoint": str(weights), "optimize": False}
        output = str(files["unoptimised"])
        timmx_core.export(chosen.format, model, output=output, verify=False, **options)
        files |= without_each(model, weights, folder)
    if chosen.passes and chosen.format == "onnx":
        files["unfolded"] = folder / "unfolded.onnx"
        with mock.patch("timmx_onnx.optimization.fold_scales", return_value=0):
            timmx_core.export(
                "onnx",
                model,
                output=str(files["unfolded"]),
                verify=False,
                checkpoint=str(weights),
            )
        files |= optimised(files[BASE], folder)
    return files


def without_each(model: str, weights: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """LiteRT's file without one of the passes, for each that finds something."""
    import timmx_core
    from timmx_litert import passes

    plain = timmx_core.inspect(folder / "fp32.tflite").manifest["report"]["optimised"]
    for chosen in passes.PASSES:
        if chosen.__name__ not in plain:
            continue
        path = folder / f"without-{chosen.__name__}.tflite"
        others = tuple(each for each in passes.PASSES if each is not chosen)
        with mock.patch.object(passes, "PASSES", others):
            timmx_core.export(
                "litert", model, output=str(path), verify=False, checkpoint=str(weights)
            )
        yield f"without {chosen.__name__}", path


def peers(
    model: str, weights: Path, folder: Path, chosen: argparse.Namespace
) -> Iterator[tuple[str, Path]]:
    """What the other exporter makes of it."""
    ways: dict[str, tuple[str, ...]] = {"peer": ()}
    if chosen.format != "onnx" and "int8" in chosen.precisions.split(","):
        ways["peer-int8"] = ("--mode", "int8", "--random-calibration")
    for label, words in ways.items():
        path = folder / f"{label}{suffix_of(chosen.format)}"
        command = [chosen.peer, "export", chosen.format, model, "--checkpoint", str(weights)]
        done = subprocess.run(
            [*command, *words, "--output", str(path)], capture_output=True, text=True, check=False
        )
        if path.exists():
            yield label, path
        else:
            print(f"{model}: the other exporter failed: {done.stdout[-300:]}{done.stderr[-300:]}")


def optimised(base: Path, folder: Path) -> dict[str, Path]:
    """The plain file after each tool that promises to make it faster."""
    import onnx_ir as ir
    import onnxruntime
    from onnxscript import optimizer
    from onnxscript.rewriter import ort_fusions

    files = {
        name: folder / f"{name}.onnx" for name in ("optimizer", "fusions", "basic", "extended")
    }
    model = ir.load(base)
    optimizer.optimize(model)
    ir.save(model, files["optimizer"])
    fused, _ = ort_fusions.optimize_for_ort(ir.load(base))
    ir.save(fused, files["fusions"])
    levels = onnxruntime.GraphOptimizationLevel
    for name, level in (
        ("basic", levels.ORT_ENABLE_BASIC),
        ("extended", levels.ORT_ENABLE_EXTENDED),
    ):
        options = session_options()
        options.optimized_model_filepath = str(files[name])
        options.graph_optimization_level = level
        onnxruntime.InferenceSession(str(base), options, providers=["CPUExecutionProvider"])
    try:
        import onnx
        import onnxslim
    except ImportError:
        print("onnxslim is not installed, and left out")
    else:
        files["onnxslim"] = folder / "onnxslim.onnx"
        onnx.save(onnxslim.slim(str(base)), files["onnxslim"])
    return files


def session_options(threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


def compare(files: dict[str, Path], seconds: float, format: str) -> dict[str, dict[str, Any]]:
    """All files that can be run, with one thread and with two."""
    files = {label: path for label, path in files.items() if runs(path, OPENERS[format], label)}
    one = in_turns(files, seconds, OPENERS[format], 1, time.process_time)
    two = in_turns(files, seconds / 2, OPENERS[format], 2, time.perf_counter)
    return {
        label: {
            "ms": round(float(np.median(values)) * 1e3, 2),
            "ratio": ratio(values, one[BASE]),
            "ratio_2_threads": ratio(two[label], two[BASE]),
            "rounds": len(values),
            "size": files[label].stat().st_size,
        }
        for label, values in one.items()
    }


def runs(path: Path, opener: Opener, label: str) -> bool:
    """Whether the runtime takes a file; another exporter's may be one that it does not."""
    try:
        opener(path, 1)()
    except (RuntimeError, ValueError) as error:
        if not label.startswith("peer"):
            raise
        print(f"{label} cannot be run: {error}")
        return False
    return True


def ratio(values: np.ndarray, base: np.ndarray) -> float:
    """The median over rounds."""
    return round(float(np.median(values / base)), 3)


def open_onnx(path: Path, threads: int) -> Callable[[], object]:
    """One inference of a file in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), session_options(threads), providers=["CPUExecutionProvider"]
    )
    port = session.get_inputs()[0]
    feeds = {port.name: image_of(port.shape)}
    return lambda: session.run(None, feeds)


def open_litert(path: Path, threads: int) -> Callable[[], object]:
    """One inference of a file in LiteRT, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    port = interpreter.get_input_details()[0]
    interpreter.set_tensor(port["index"], image_of(port["shape"]).astype(port["dtype"]))
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


def open_executorch(path: Path, threads: int) -> Callable[[], object]:
    """One inference of a program in ExecuTorch, whose one pool of threads is all programs'."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    image = torch.from_numpy(image_of(method.metadata.input_tensor_meta(0).sizes()))
    return lambda: (program, method.execute([image]))


Opener = Callable[[Path, int], Callable[[], object]]
OPENERS: dict[str, Opener] = {
    "executorch": open_executorch,
    "litert": open_litert,
    "onnx": open_onnx,
}


def image_of(shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(tuple(shape)).astype(np.float32)


def in_turns(
    files: dict[str, Path],
    seconds: float,
    opener: Opener,
    threads: int,
    clock: Callable[[], float],
) -> dict[str, np.ndarray]:
    """Seconds of each file in each round, until the time is spent; at least ten rounds."""
    opened = {label: opener(path, threads) for label, path in files.items()}
    spent: dict[str, list[float]] = {label: [] for label in files}
    # In another order each round: what ran before decides what lies in the caches.
    order = random.Random(0)
    labels = list(opened)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent[BASE]) < 11:
        order.shuffle(labels)
        for label in labels:
            start = clock()
            opened[label]()
            spent[label].append(clock() - start)
    return {label: np.array(values[1:]) for label, values in spent.items()}


def main() -> None:
    """Run what is missing, saving after every model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", default="onnx", choices=sorted(MODELS))
    parser.add_argument("--models", default="", help="with commas")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--peer", help="the program `timmx` of an environment with timmx 0.10.1")
    parser.add_argument("--passes", action="store_true", help="also what could optimise the graph")
    parser.add_argument("--seconds", type=float, default=20, help="for each model")
    parser.add_argument("--again", action="store_true")
    chosen = parser.parse_args()
    out = HERE / "results" / f"latency-{chosen.format}.json"
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    for model in chosen.models.split(",") if chosen.models else MODELS[chosen.format]:
        rows = content["rows"].setdefault(model, {})
        wanted = {*chosen.precisions.split(","), *(["peer"] if chosen.peer else [])}
        if wanted <= set(rows) and not chosen.passes and not chosen.again:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = files_of(model, write_weights(model, folder), folder, chosen)
            rows |= compare(files, chosen.seconds, chosen.format)
        print(model, {label: row["ratio"] for label, row in rows.items()}, flush=True)
        save(content, out, chosen.format)


def save(content: dict[str, Any], out: Path, format: str) -> None:
    """With the versions that it was made with."""
    from timmx_core.files.manifest import versions_of

    words = "" if format == "onnx" else f" --format {format}"
    content["command"] = f"python benchmarks/latency.py{words}"
    content["versions"] = versions_of({"timm", "torch", *LIBRARIES[format]})
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
