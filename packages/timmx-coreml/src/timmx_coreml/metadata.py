"""The manifest inside a package, found without torch or the converter."""

from __future__ import annotations

from pathlib import Path

from timmx_coreml.mil.package import MANIFEST, Package

KEY = "timmx"


def read_manifest(path: Path) -> bytes | None:
    """The embedded manifest.

    :return: None for files of other formats, and for Core ML files of other origin.
    :raises ArtifactError: for a Core ML file that is broken.
    """
    folder = path.is_dir() and (path.suffix == ".mlpackage" or (path / MANIFEST).is_file())
    if not folder and not (path.is_file() and path.suffix == ".mlmodel"):
        return None
    manifest = Package(path).description().user.get(KEY)
    return None if manifest is None else manifest.encode()
