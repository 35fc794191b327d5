"""The record beside a file: where it lies, and what it says. It is text that anybody can write."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from timmx_core.errors import ArtifactError
from timmx_core.files import manifest as manifests
from timmx_core.reading.regular import open_regular, read_regular

RECORD_SUFFIX = ".timmx.json"
CHUNK = 1 << 20


def record_path(primary: Path) -> Path:
    """`model.onnx` has its record in `model.onnx.timmx.json`."""
    return primary.with_name(primary.name + RECORD_SUFFIX)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record beside a file; None where there is none.

    :raises ArtifactError: it is there and broken.
    """
    if not path.name:
        return None  # "." and "/"
    beside = record_path(path)
    if not os.path.lexists(beside):
        return None
    if not beside.is_file():
        raise ArtifactError(f"the record {beside} is no file")
    try:
        data = read_regular(beside, manifests.MOST_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read the record {beside}: {error.strerror}") from None
    try:
        return manifests.parse(data, "record")
    except ArtifactError as error:
        raise ArtifactError(
            f"{beside}: {error.message}", error.hint or "take it again from where it was exported"
        ) from None


def sha256(path: Path) -> str:
    """Of a file's bytes.

    :raises OSError: it cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
