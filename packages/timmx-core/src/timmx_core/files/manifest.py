"""The manifest: what a file says of itself. And the record beside it: how it was verified.

`schema.json` in this package is the published schema of both; reading validates against it, so
that whatever follows can rely on types and bounds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Artifact, ExportRequest, TensorSpec
from timmx_core.errors import ArtifactError, ExportError, first_line
from timmx_core.reading import strict_json
from timmx_core.results import Verdict
from timmx_core.verification import probes
from timmx_core.verification.measure import Reference
from timmx_core.verification.sampling import sampled

if TYPE_CHECKING:
    import numpy as np

    from timmx_core.models.build import BuiltModel

SCHEMA_VERSION = 1
MOST_BYTES = 64 << 20


def build(
    request: ExportRequest,
    built: BuiltModel,
    artifact: Artifact,
    references: Iterable[Reference],
    recipe: probes.Recipe,
    pixels_sha256: str,
    labels: tuple[str, ...] | None,
    versions: Mapping[str, str],
    calibration: Mapping[str, Any] | None,
    content_sha256: str | None,
) -> dict[str, Any]:
    """Everything about the file that does not depend on when and where it was made.

    :param content_sha256: what `Backend.content_digest` gave for it.
    :raises ExportError: the plugin's ports are not JSON.
    """
    pre = built.preprocessing
    content = {
        "schema_version": SCHEMA_VERSION,
        "format": request.format,
        "versions": dict(versions),
        "model": {
            "name": built.name if isinstance(request.model, str) else f"module:{built.name}",
            "architecture": built.architecture,
            "task": built.task,
            "parameters": built.parameters,
            "num_classes": built.num_classes,
            "weights": built.weights,
        },
        "inputs": [spec_to_json(spec) for spec in artifact.inputs],
        "outputs": _outputs(artifact, built),
        "preprocessing": {
            "channels": pre.input_size[0],
            "height": pre.input_size[1],
            "width": pre.input_size[2],
            "mean": list(pre.mean),
            "std": list(pre.std),
            "interpolation": pre.interpolation,
            "crop_pct": pre.crop_pct,
            "crop_mode": pre.crop_mode,
        },
        "labels": list(labels) if labels else None,
        "precision": {
            "name": request.precision.name,
            "weights": request.precision.weights,
            "activations": request.precision.activations,
            "floor_db": request.precision.floor_db,
            "floor_limit_db": request.shared["floor"],
            "calibration": dict(calibration) if calibration else None,
        },
        "options": _given_options(request),
        "report": dict(artifact.report),
        "notes": list(artifact.notes),
        "probes": recipe.to_json() | {"sha256": pixels_sha256},
        "reference": [reference_to_json(reference) for reference in references],
        "content_sha256": content_sha256,
    }
    # As it will be read: keys that are numbers, and tuples, are of this process alone.
    stored: dict[str, Any] = json.loads(json.dumps(content))
    return stored | {"sha256": digest(stored)}


def digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest without its own entry for it, as JSON: sorted keys, no spaces, ASCII.

    Much that a manifest says, labels and cropping above all, nothing in the file could contradict.
    """
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions, without importing anything."""
    result = {}
    for name in sorted(set(distributions)):
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def _outputs(artifact: Artifact, built: BuiltModel) -> list[dict[str, Any]]:
    """By name: a file may have outputs of its own beside the model's."""
    strides = {output.name: output.stride for output in built.outputs}
    outputs = [spec_to_json(spec) for spec in artifact.outputs]
    for output in outputs:
        if strides.get(output["name"]) is not None:
            output["stride"] = strides[output["name"]]
    return outputs


def _given_options(request: ExportRequest) -> dict[str, Any]:
    """Options that shape the file. Paths, which would tell of the machine, stay out."""
    from timmx_core.request.shared_options import NOT_OF_THE_FILE, SHARED_OPTIONS

    shaping = {
        o.name: request.shared[o.name]
        for o in SHARED_OPTIONS
        if o.group in ("Model", "Input", "Output")
        and o.type != "path"
        and o.name not in NOT_OF_THE_FILE
    }
    labels = shaping.get("labels")
    if labels and labels != "imagenet-1k":
        shaping["labels"] = "file"
    chosen = {n: v for n, v in shaping.items() if v not in (None, False, ())}
    return json.loads(json.dumps(chosen | dict(request.options)))  # type: ignore[no-any-return]


def spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    """A port as JSON.

    :raises ExportError: it holds something else than plain numbers and words.
    """
    try:
        return json.loads(json.dumps(asdict(spec)))  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ExportError(f"the plugin's port {spec.name!r} is not JSON: {error}") from error


def spec_from_json(data: Mapping[str, Any]) -> TensorSpec:
    """A port from a manifest that was validated."""

    def dimension(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return TensorSpec(
        name=data["name"],
        shape=tuple(dimension(d) for d in data["shape"]),
        dtype=data["dtype"],
        role=data["role"],
        layout=data["layout"],
        quantization=tuple(data["quantization"]) if data.get("quantization") else None,
        color=data.get("color"),
        range=tuple(data["range"]) if data.get("range") else None,
        mean=tuple(data.get("mean") or ()),
        std=tuple(data.get("std") or ()),
    )


def reference_to_json(reference: Reference) -> dict[str, Any]:
    """PyTorch's output over the probes, for checking the file later and elsewhere."""
    small = sampled(reference)
    return {
        "name": small.name,
        "shape": list(small.shape),
        "classes": small.classes,
        "layout": small.layout,
        # JSON has no word for what PyTorch's own NaN and infinities leave of it.
        "signal": small.signal if math.isfinite(small.signal) else None,
        "positions": None if small.positions is None else _encode(small.positions, "<i8"),
        "values": _encode(small.values, "<f4"),
    }


def reference_from_json(data: Mapping[str, Any], count: int) -> Reference:
    """A reference from a manifest that was validated.

    :raises ArtifactError: its arrays do not have the size that it states.
    """
    shape = tuple(data["shape"])
    size = 1
    for dimension in shape:
        size *= dimension
    positions = None if data["positions"] is None else _decode(data["positions"], "<i8")
    values = _decode(data["values"], "<f4")
    width = size if positions is None else len(positions)
    if len(values) != count * width:
        raise ArtifactError("the manifest's reference outputs do not have the size they state")
    if (
        positions is not None
        and len(positions)
        and not 0 <= positions.min() <= positions.max() < size
    ):
        raise ArtifactError("the manifest samples positions that its output does not have")
    return Reference(
        data["name"],
        shape,
        values.reshape(count, width),
        positions,
        bool(data["classes"]),
        str(data.get("layout", "")),
    )


def _encode(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode("ascii")


def _decode(text: str, dtype: str) -> np.ndarray:
    import numpy as np

    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except (binascii.Error, ValueError):
        raise ArtifactError("the manifest's arrays are not base64 of whole numbers") from None


def dump(manifest: Mapping[str, Any]) -> bytes:
    """The same content gives the same bytes."""
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    return text.encode()


def dump_readable(content: Mapping[str, Any], kind: str) -> bytes:
    """The same of what is about to be published: it can be read again, or it is an error.

    :param kind: "manifest" or "record".
    :raises ExportError: names the place that no reader would accept.
    """
    try:
        data = dump(content)
        parse(data, kind)
    except (ArtifactError, TypeError, ValueError) as error:
        raise ExportError(
            f"no file was written, since timmx could not read it again: {first_line(error, 300)}"
        ) from error
    return data


def parse(data: bytes, kind: str = "manifest") -> dict[str, Any]:
    """A manifest or record from untrusted bytes, validated against the schema.

    :param kind: "manifest" or "record".
    :raises ArtifactError: not JSON, too large, of a newer schema, or against the schema.
    """
    if len(data) > MOST_BYTES:
        raise ArtifactError(f"the {kind} is larger than {MOST_BYTES >> 20} MiB")
    try:
        content = strict_json.loads(data)
    except strict_json.BadJson as error:
        raise ArtifactError(f"the {kind} is not JSON as timmx writes it: {error}") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"the {kind} is not a JSON object")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"the {kind} is of version {version}, this timmx reads up to {SCHEMA_VERSION}",
            "pip install --upgrade timmx-core",
        )
    validate(content, kind)
    return content


def validate(content: Mapping[str, Any], kind: str) -> None:
    """Check against the published schema.

    :raises ArtifactError: names the place that is wrong.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", **schema()})
    error = next(iter(validator.iter_errors(content)), None)
    if error is not None:
        place = "/".join(str(p) for p in error.absolute_path) or "the top"
        raise ArtifactError(f"the {kind} is not valid at {place[:80]}: {error.message[:160]}")


def schema() -> dict[str, Any]:
    """The published JSON schema."""
    text = resources.files("timmx_core.files").joinpath("schema.json").read_text("utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def make_record(
    manifest: Mapping[str, Any], verdict: Verdict, members: Mapping[str, str]
) -> dict[str, Any]:
    """The record that stands beside every file."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": created(),
        "verdict": verdict.to_json(),
        "members": dict(members),
        "manifest": dict(manifest),
    }


def created() -> str:
    """Now in UTC, or the moment that SOURCE_DATE_EPOCH names."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isdigit() else time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
