"""Writing packages: the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from timmx_coreml.metadata import KEY
from timmx_coreml.mil.package import DATA, MANIFEST

_FOLDER = "com.apple.CoreML"
_MODEL, _WEIGHTS = f"{_FOLDER}/model.mlmodel", f"{_FOLDER}/weights"
_NAMESPACE = uuid.UUID("3d6b4be4-6f9c-5d07-9a0e-2f5f8f2f7f52")


def write(model: Any, path: Path) -> None:
    """Write an `MLModel` as an `.mlpackage` folder, or as an `.mlmodel` file.

    The converter stamps the date and random identifiers; neither is written.
    """
    spec = model.get_spec()
    for key in [k for k in spec.description.metadata.userDefined if k.endswith("conversion_date")]:
        del spec.description.metadata.userDefined[key]
    content = spec.SerializeToString(deterministic=True)
    if path.suffix == ".mlmodel":
        path.write_bytes(content)
        return
    (path / DATA / _FOLDER).mkdir(parents=True)
    (path / DATA / _MODEL).write_bytes(content)
    weights = Path(model.weights_dir) if model.weights_dir else None
    if weights is not None and weights.is_dir():
        shutil.copytree(weights, path / DATA / _WEIGHTS)
    _write_index(path)


def model_file(path: Path) -> Path:
    """The file that holds the specification."""
    return path if path.is_file() else path / DATA / _MODEL


def embed(path: Path, manifest: bytes) -> None:
    """Put the manifest into the user-defined metadata."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(model_file(path).read_bytes())
    spec.description.metadata.userDefined[KEY] = manifest.decode()
    model_file(path).write_bytes(spec.SerializeToString(deterministic=True))
    if path.is_dir():
        _write_index(path)


def _write_index(path: Path) -> None:
    """`Manifest.json`, its identifiers derived from what they identify."""
    items = {}
    root = _identifier(path, _MODEL)
    items[root] = _item("model.mlmodel", _MODEL, "CoreML Model Specification")
    if (path / DATA / _WEIGHTS).is_dir():
        items[_identifier(path, _WEIGHTS)] = _item("weights", _WEIGHTS, "CoreML Model Weights")
    index = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": root,
    }
    (path / MANIFEST).write_text(json.dumps(index, indent=4, sort_keys=True) + "\n")


def _item(name: str, path: str, description: str) -> dict[str, str]:
    return {"author": "com.apple.CoreML", "description": description, "name": name, "path": path}


def _identifier(package: Path, relative: str) -> str:
    place = package / DATA / relative
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    digest = hashlib.sha256(relative.encode())
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return str(uuid.uuid5(_NAMESPACE, digest.hexdigest()))
