"""The two libraries that build and run engines: almost one API, under two names."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from timmx_core.errors import MissingDependency


@dataclass(frozen=True)
class Library:
    """TensorRT, or TensorRT for RTX."""

    title: str
    module: str
    distribution: str
    install: str  # the command that brings it
    missing: str  # why it may not be here

    def check(self) -> None:
        """Whether it is installed, without importing it.

        :raises MissingDependency: it is not.
        """
        if importlib.util.find_spec(self.module) is None:
            raise MissingDependency(
                f"{self.distribution} is not installed{self.missing}", self.install
            )

    def load(self) -> Any:
        """The module (heavy).

        :raises MissingDependency: it is not here, or its native libraries are not.
        """
        self.check()
        try:
            return importlib.import_module(self.module)
        except (ImportError, OSError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise MissingDependency(
                f"{self.distribution} cannot be imported: {reason}", self.install
            ) from error

    @property
    def version(self) -> str:
        """Of the distribution; empty where it is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return ""


CLASSIC = Library(
    "TensorRT",
    "tensorrt",
    "tensorrt",
    'pip install "timmx-tensorrt[tensorrt]"',
    ": its libraries are large, and come from NVIDIA's own index on request only",
)
RTX = Library(
    "TensorRT-RTX",
    "tensorrt_rtx",
    "tensorrt-rtx",
    'pip install "tensorrt-rtx>=1.7"',
    ": there are packages for Linux and Windows on x86-64 only",
)
