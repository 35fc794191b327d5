"""From an ONNX file to an engine. Everything here is heavy."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timmx_core.errors import ExportError
from timmx_core.toolkit.places import output_error
from timmx_tensorrt.library import Library
from timmx_tensorrt.settings import Settings

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
# Where in NVIDIA's sources a message comes from, and numbers that mean something there.
_PLACE = re.compile(r" In [\w:]+ at /\S+")
_HEAD = re.compile(
    r"^(\[[\w.]+::\w+::\d+\] |([\w:.]+: )?Error Code \d+: |\w+ \(\[[\w.]+:\d+: \w+\] )"
)


@dataclass(frozen=True)
class Built:
    """What came out of a build, and what the network said of itself before."""

    layers: int
    kinds: Mapping[str, int]  # how many layers of each kind
    types: Mapping[str, int]  # how many layers give results of each type
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trouble: str = ""  # beside the engine


class Log:
    """What a library says: errors are kept."""

    @staticmethod
    def of(trt: Any, *, aloud: bool = True) -> Any:
        """A logger of that library's own class.

        :param aloud: write to stderr, which core keeps in its log while a stage lasts.
        """

        class Kept(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self.errors.append(message)
                if aloud and severity != trt.ILogger.VERBOSE:
                    sys.stderr.write(f"{severity.name}: {message}\n")

            @property
            def reason(self) -> str:
                return plain(self.errors[0]) if self.errors else "it gives no reason"

        return Kept()


def build(
    library: Library, onnx: Path, engine: Path, settings: Settings, shapes: Mapping[str, Shapes]
) -> Built:
    """Parse, optimise, write.

    :param shapes: of each input with a dynamic batch: least, best, greatest.
    :raises ExportError: an operator that the library lacks, or a build that failed; with its words.
    """
    trt = library.load()
    log = Log.of(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise ExportError(f"{library.title} cannot read the ONNX file: {_unread(parser)}")
    config = builder.create_builder_config()
    configure(trt, config, settings, library)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, (least, best, greatest) in shapes.items():
            profile.set_shape(name, least, best, greatest)
        config.add_optimization_profile(profile)
    cache = load_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"{library.title} could not build the engine: {log.reason}",
            f"--workspace allows each layer {settings.workspace} MiB: more, or none, may do"
            if settings.workspace is not None
            else "",
        )
    with engine.open("wb") as file:
        file.write(memoryview(plan))
    built = describe(network)
    if cache is not None and settings.timing_cache is not None:
        return replace(built, trouble=save_cache(config, settings.timing_cache))
    return built


def configure(trt: Any, config: Any, settings: Settings, library: Library) -> None:
    """Tell the builder all but shapes."""
    if settings.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.targets:
        config.num_compute_capabilities = len(settings.targets)
    for index, target in enumerate(settings.targets):
        capability = getattr(trt.ComputeCapability, target.upper(), None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise ExportError(
                f"{library.distribution} {trt.__version__} builds nothing for {target}",
                "leave it out of --target, or upgrade the library",
            )


def describe(network: Any) -> Built:
    """A parsed network: its layers, their types, its ports."""
    kinds: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kinds[layer.type.name.lower()] += 1
        if layer.num_outputs:
            types[layer.get_output(0).dtype.name.lower()] += 1
    return Built(
        network.num_layers,
        dict(kinds.most_common()),
        dict(types.most_common()),
        tuple(network.get_input(i).name for i in range(network.num_inputs)),
        tuple(network.get_output(i).name for i in range(network.num_outputs)),
    )


def plain(message: str) -> str:
    """A message of the library without its sources and numbers, on one line."""
    lines = message.strip().splitlines() or [""]
    # The parser says where on its first line, and what on the next.
    line = lines[1] if lines[0].startswith("Invalid Node - ") and len(lines) > 1 else lines[0]
    line = _PLACE.sub("", line)
    while head := _HEAD.match(line):
        line = line[head.end() :]
    return (line + ")" * (line.count("(") - line.count(")")))[:300]


def _unread(parser: Any) -> str:
    error = parser.get_error(0)
    node = error.node_name()
    text = plain(error.desc())
    where = f" ({error.node_operator()} {node})" if node else ""
    return f"{text}{where}"


def load_cache(config: Any, path: Path | None) -> Any:
    """The kept measurements, or none yet. A file of another GPU or version is not taken."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise output_error(error, path) from error
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def save_cache(config: Any, path: Path) -> str:
    """Beside, then in place: two builds may end at once.

    :return: why it could not be kept, which is no reason to lose the engine.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(memoryview(config.get_timing_cache().serialize()))
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        return f"the timing cache could not be kept: {error.strerror or error}"
    return ""
