"""What of a request Core ML cannot do, found before torch loads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from timmx_core.backend import ExportRequest
from timmx_core.errors import RequestError

TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
DEFAULT_TARGET = "iOS16"
# The oldest system that has the operations a compressed file is made of.
OLDEST = {"int8": "iOS16", "palette4": "iOS16", "palette6": "iOS16", "int4": "iOS18"}


@dataclass(frozen=True)
class Sizes:
    """Image sizes that a file takes beside its own: listed, or a range of both dimensions."""

    listed: tuple[tuple[int, int], ...] = ()
    range: tuple[tuple[int, int], tuple[int, int]] | None = None  # least and greatest (H, W)

    def __bool__(self) -> bool:
        return bool(self.listed or self.range)


def deployment_target(request: ExportRequest) -> str:
    """The oldest system that will run the file."""
    asked = request.options["minimum_deployment_target"]
    needed = OLDEST.get(request.precision.name, DEFAULT_TARGET)
    return str(asked or max(needed, DEFAULT_TARGET))


def check_request(request: ExportRequest) -> None:
    """Raise for combinations that Core ML does not have.

    :raises RequestError: says which, and what to do.
    """
    options = request.options
    sizes = parse_sizes(options["sizes"], options["size_range"])
    neural = options["convert_to"] == "neuralnetwork"
    if not neural and str(request.shared["output"] or "").endswith(".mlmodel"):
        raise RequestError("a Core ML mlprogram is a .mlpackage, not a .mlmodel")
    if neural:
        _check_neuralnetwork(request)
    _check_target(request)
    if options["image_input"]:
        _check_image(request)
    if request.shared["labels"] and (request.dynamic_batch or request.batch[1] != 1):
        raise RequestError("a Core ML classifier takes one image at a time")
    if sizes and request.dynamic_batch:
        raise RequestError("a Core ML file has a flexible batch or flexible sizes, not both")


def _check_neuralnetwork(request: ExportRequest) -> None:
    if request.precision.name != "fp32":
        raise RequestError(
            f"a Core ML neuralnetwork has no --precision {request.precision.name}: "
            "the device chooses its precision when it runs it",
            "add --precision fp32, or leave out --convert-to neuralnetwork",
        )
    if request.options["minimum_deployment_target"]:
        raise RequestError(
            "--minimum-deployment-target is for mlprogram; a neuralnetwork runs from iOS 13 on"
        )


def _check_target(request: ExportRequest) -> None:
    asked = request.options["minimum_deployment_target"]
    needed = OLDEST.get(request.precision.name)
    if asked and needed and asked < needed:
        raise RequestError(f"--precision {request.precision.name} needs {needed} or newer")


def _check_image(request: ExportRequest) -> None:
    shared = request.shared
    if shared["nhwc_input"]:
        raise RequestError("--image-input and --nhwc-input exclude each other")
    if request.dynamic_batch or request.batch[1] != 1:
        raise RequestError("a Core ML image input takes one image at a time")
    chans = shared["in_chans"] or (shared["input_size"] or (None,))[0]
    if chans not in (None, 1, 3):
        raise RequestError(f"a Core ML image has 1 or 3 channels, not {chans}")


def parse_sizes(listed: str | None, bounds: str | None) -> Sizes:
    """`--sizes` and `--size-range` as numbers.

    :raises RequestError: for text that is no size, or both at once.
    """
    if listed and bounds:
        raise RequestError("--sizes and --size-range exclude each other")
    if listed:
        return Sizes(listed=tuple(dict.fromkeys(_pairs(listed, "--sizes"))))
    if not bounds:
        return Sizes()
    pairs = _pairs(bounds, "--size-range")
    if len(pairs) != 2 or pairs[0][0] > pairs[1][0] or pairs[0][1] > pairs[1][1]:
        raise RequestError(f"--size-range is a least and a greatest size, not {bounds}")
    return Sizes(range=(pairs[0], pairs[1]))


def _pairs(text: str, flag: str) -> list[tuple[int, int]]:
    pairs = []
    for word in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", word)
        if match is None or min(size := (int(match[1]), int(match[2]))) < 1:
            raise RequestError(f"{flag} wants sizes as 160x160,256x192, not {text!r}")
        pairs.append(size)
    return pairs
