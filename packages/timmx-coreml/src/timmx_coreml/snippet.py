"""The few lines of Python that run a package: Core ML on macOS, the interpreter elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(manifest: Mapping[str, Any]) -> str:
    """See `Backend.snippet`."""
    spec = manifest["inputs"][0]
    image = spec["dtype"] == "uint8"
    picture = ["    from PIL import Image"] if image else []
    given = "Image.fromarray(x[0].squeeze())" if image else "x"
    name = spec["name"]
    parts = [_output(output, manifest["labels"]) for output in manifest["outputs"]]
    return "\n".join(
        [
            "import sys",
            'if sys.platform == "darwin":',
            "    import coremltools",
            *picture,
            "    model = coremltools.models.MLModel(path)",
            f"    results = model.predict({{{name!r}: {given}}})",
            "else:",
            "    from timmx_coreml.mil import load",
            f"    results = load(path).run({{{name!r}: x}})",
            f"outputs = [{', '.join(parts)}]",
            "",
        ]
    )


def _output(output: Mapping[str, Any], labels: Any) -> str:
    """An output as an array; a classifier's dictionary keeps the order of the labels."""
    value = f"results[{output['name']!r}]"
    if output["role"] == "label":
        return f"np.array([{value}])"
    if output["role"] == "probabilities" and labels:
        return f"np.array([list({value}.values())])"
    return value
