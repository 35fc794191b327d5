"""All that a GPU can say of engines, in one command and one JSON.

    python benchmarks/tensorrt_gpu.py                          # everything
    python benchmarks/tensorrt_gpu.py --formats tensorrt       # one of the two libraries
    python benchmarks/tensorrt_gpu.py --models resnet18 --rounds 3

On the machine's first GPU, with whichever of the two libraries runs there; the other's reason is
kept. Engines of some models in every precision are verified against PyTorch;
`tf_efficientnet_lite0` with its real weights is shown photographs, calibrated on ten of them and
judged on the others; and latency at batch 1 and 32 stands beside `torch.compile` in fp16, the same
network on the same GPU, by CUDA's own clock, with the images there already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

import numpy as np  # noqa: E402
import photo_trials  # noqa: E402
import reference  # type: ignore[import-not-found]  # noqa: E402
import testdata  # noqa: E402

from timmx_core.errors import TimmxError  # noqa: E402
from timmx_core.files.manifest import versions_of  # noqa: E402
from timmx_core.plugins.manager import get_manager  # noqa: E402
from timmx_tensorrt import gpu  # noqa: E402
from timmx_tensorrt.engines import EngineBackend  # noqa: E402
from timmx_tensorrt.runner import EngineRunner  # noqa: E402

RESULTS = HERE / "results" / "tensorrt-gpu.json"
FORMATS = ("tensorrt", "tensorrt-rtx")
MODELS = ("resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224")
BATCHES = (1, 32)
CALIBRATED_ON = 10
WARM, TIMED = 50, 200
DISTRIBUTIONS = (
    *("tensorrt", "tensorrt-rtx", "torch", "timm", "onnx", "onnxruntime"),
    *("timmx-core", "timmx-onnx", "timmx-tensorrt"),
)


def export(format: str, model: str, path: Path, *words: str) -> dict[str, Any]:
    """Through the command line, as a user would do it."""
    command = [sys.executable, "-m", "timmx_core", format, model, *words]
    done = subprocess.run(
        [*command, "--json", "-o", str(path)], capture_output=True, text=True, check=False
    )
    row: dict[str, Any] = reference.row_of(done)
    return row | {"exit_code": done.returncode}


# ---------------------------------------------------------------- each part


def verdicts(backend: EngineBackend, models: list[str], folder: Path) -> dict[str, Any]:
    """Every model in every precision against PyTorch, with a dynamic batch."""
    rows: dict[str, Any] = {}
    for model in models:
        for precision in backend.precisions:
            words = ["--precision", precision.name, "--dynamic-batch", "--batch-max", "32"]
            if precision.calibrated:
                words.append("--random-calibration")
            path = folder / f"{backend.name}-{model}-{precision.name}.engine"
            rows[f"{model}, {precision.name}"] = export(backend.name, model, path, *words)
            print(backend.name, model, precision.name, rows[f"{model}, {precision.name}"]["status"])
    return rows


def photographs(backend: EngineBackend, folder: Path) -> dict[str, Any]:
    """How often an engine sees what PyTorch sees: in ten photographs that it was not made with."""
    model = testdata.write_lite0(folder / "lite0")
    pictures = testdata.photographs()
    calibration = photo_trials.calibration_folder(folder, pictures[:CALIBRATED_ON])
    others = pictures[CALIBRATED_ON:]
    wanted = photo_trials.classes_of_timm(model, others)
    rows: dict[str, Any] = {}
    for precision in backend.precisions:
        path = folder / f"{backend.name}-lite0-{precision.name}.engine"
        words = ["--pretrained", "--precision", precision.name]
        if precision.calibrated:
            words += ["--calibration-data", calibration]
        row = export(backend.name, f"local-dir:{model}", path, *words)
        if path.exists():
            found = photo_trials.classes_of_file(path, others)
            same = sum(a == b for a, b in zip(found, wanted, strict=True))
            row |= {"same_class": same, "photographs": len(others)}
        rows[precision.name] = row
        print(backend.name, "photographs", precision.name, row["status"], row.get("same_class"))
    return rows


def latencies(backend: EngineBackend, models: list[str], rounds: int, folder: Path) -> Any:
    """Milliseconds of the engines that `verdicts` left, where they are right."""
    rows: dict[str, Any] = {}
    for model in models:
        for precision in backend.precisions:
            path = folder / f"{backend.name}-{model}-{precision.name}.engine"
            if path.exists():
                with EngineRunner(backend.library, path) as runner:
                    for batch in BATCHES:
                        label = f"{model}, {precision.name}, batch {batch}"
                        rows[label] = timed(of_engine(runner, model, batch), rounds)
                        print(backend.name, label, rows[label]["ms"])
    return rows


def compiled(models: list[str], rounds: int) -> dict[str, Any]:
    """The same networks by `torch.compile`, in fp16."""
    import timm
    import torch

    rows: dict[str, Any] = {}
    for model in models:
        network = timm.create_model(model).eval().half().cuda()
        for mode in ("default", "max-autotune"):
            torch.compiler.reset()
            fast = torch.compile(network, mode=mode)
            for batch in BATCHES:
                images = torch.randn(batch, *size_of(model), device="cuda").half()

                def run(fast: Any = fast, images: Any = images) -> None:
                    with torch.inference_mode():
                        fast(images)

                label = f"{model}, {mode}, batch {batch}"
                rows[label] = timed(run, rounds)
                print("torch.compile", label, rows[label]["ms"])
    return rows


# ---------------------------------------------------------------- clocks


def size_of(model: str) -> tuple[int, int, int]:
    """The images that timm's configuration of a model names."""
    import timm

    config: Any = timm.get_pretrained_cfg(model)
    return tuple(config.test_input_size or config.input_size)


def of_engine(runner: EngineRunner, model: str, batch: int) -> Callable[[], None]:
    """One inference, with inputs and outputs on the GPU."""
    import torch

    held: dict[str, Any] = {"input": torch.randn(batch, *size_of(model), device="cuda")}
    runner.context.set_input_shape("input", tuple(held["input"].shape))
    for name in runner.outputs:
        held[name] = torch.empty(tuple(runner.context.get_tensor_shape(name)), device="cuda")
    for name, tensor in held.items():
        runner.context.set_tensor_address(name, tensor.data_ptr())
    torch.cuda.synchronize()

    def run() -> None:
        assert held  # this memory lives as long as what uses it
        runner.context.execute_async_v3(torch.cuda.current_stream().cuda_stream)

    return run


def timed(run: Callable[[], None], rounds: int) -> dict[str, Any]:
    """The median of some rounds, and all of them: milliseconds for one call."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    found = []
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            run()
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(TIMED):
                run()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / TIMED)
    return {"ms": round(statistics.median(found), 4), "rounds": [round(ms, 4) for ms in found]}


# ---------------------------------------------------------------- all of it


def of_format(name: str, models: list[str], rounds: int, folder: Path) -> dict[str, Any]:
    """One library; or why it does not run here."""
    backend: Any = get_manager().backend(name)
    try:
        backend.check_export(None)
        backend.check_run()
    except TimmxError as error:
        print(name, "-", error)
        return {"refused": str(error)}
    return {
        "verdicts": verdicts(backend, models, folder),
        "photographs": photographs(backend, folder / "photographs"),
        "latency": latencies(backend, models, rounds, folder),
    }


def main() -> int:
    """Write after each part, so that what is done is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    try:
        card = gpu.find()
    except gpu.NoGpuError as error:
        print(f"{error}: nothing was run", file=sys.stderr)
        return 3
    content: dict[str, Any] = {
        "command": "python benchmarks/tensorrt_gpu.py " + " ".join(sys.argv[1:]),
        "gpu": asdict(card) | {"target": card.target},
        "versions": versions_of(DISTRIBUTIONS) | {"numpy": np.__version__},
        "formats": {},
    }
    for name in chosen.formats:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "photographs").mkdir()
            content["formats"][name] = of_format(name, chosen.models, chosen.rounds, folder)
        chosen.out.write_text(json.dumps(content, indent=1) + "\n")
    if any("refused" not in row for row in content["formats"].values()):
        content["torch_compile_fp16"] = compiled(chosen.models, chosen.rounds)
        chosen.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
