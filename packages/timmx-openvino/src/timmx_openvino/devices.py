"""Names of OpenVINO's devices."""

from __future__ import annotations

import importlib.util
import re

from timmx_core.errors import RequestError

KNOWN = re.compile(r"(CPU|GPU|NPU)(\.\w+)*")
# They run a model on whatever device they like, and a verdict is about one.
CHOOSING = re.compile(r"(AUTO|MULTI|HETERO|BATCH)(:.*)?")


def check_device(name: str) -> None:
    """Whether OpenVINO has such a device, be it here or not.

    :raises RequestError: it has none, or the name stands for several.
    """
    if KNOWN.fullmatch(name):
        return
    if CHOOSING.fullmatch(name):
        raise RequestError(
            f"--ov-device {name} leaves it to OpenVINO where the file runs",
            "name one device: CPU, GPU, GPU.1, NPU",
        )
    if importlib.util.find_spec("openvino") is None:
        return
    from timmx_openvino.runtime import import_openvino

    # Others may come with a plugin.
    here = import_openvino().Core().available_devices
    if name not in here:
        raise RequestError(
            f"OpenVINO knows no device {name!r}",
            f"there are CPU, GPU, GPU.1, NPU, ...; here it sees {', '.join(here)}",
        )
