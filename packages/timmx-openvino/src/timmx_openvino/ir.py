"""The XML file of an IR as bytes: the manifest goes in and comes out without an XML parser."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from timmx_core.errors import ArtifactError, ExportError
from timmx_core.toolkit.content import ContentDigest

MOST_BYTES = 256 << 20
HEAD = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml[^>]{0,200}\?>\s{0,100}<net[ >]")
END = re.compile(rb"</rt_info>\s*</net>\s*\Z")
# The attribute is base64, so nothing in it needs to be escaped.
START = b'<timmx value="'
ENTRY = re.compile(rb'([A-Za-z0-9+/=]*)" />\s*</rt_info>\s*</net>\s*\Z')


def add_manifest(path: Path, manifest: bytes) -> None:
    """Make it the last entry of the model's `rt_info`, which OpenVINO keeps and does not read.

    :raises ExportError: the file does not end as OpenVINO ends it.
    """
    text = path.read_bytes()
    end = END.search(text, max(0, len(text) - 200))
    if end is None:
        raise ExportError("the IR does not end with rt_info, and has no place for the manifest")
    entry = START + base64.b64encode(manifest) + b'" />\n</rt_info>\n</net>\n'
    path.write_bytes(text[: end.start()] + entry)


def read_manifest(path: Path) -> bytes | None:
    """The manifest of an IR; None where the file is none, or has none.

    :raises ArtifactError: it is an IR that is cut off, damaged or too large.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(1000)
        if not HEAD.match(head):
            return None
        data = head + file.read(MOST_BYTES)
    if not data.rstrip().endswith(b"</net>"):
        raise ArtifactError(f"{path.name} is cut off, or too large")
    start = data.rfind(START)
    if start < 0:
        return None
    found = ENTRY.match(data, start + len(START))
    try:
        return base64.b64decode(found[1], validate=True) if found else None
    except binascii.Error as error:
        raise ArtifactError(f"{path.name}: its manifest is damaged ({error})") from error


def content_digest(path: Path) -> str:
    """sha256 of the IR without the manifest, and of the file of its weights.

    :raises ArtifactError: one of the two files is missing.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    start = data.rfind(START)
    entry = ENTRY.match(data, start + len(START)) if start >= 0 else None
    end = END.search(data, max(0, len(data) - 200))
    if entry:  # up to where the manifest begins
        data = data[:start]
    elif end:  # or would begin
        data = data[: end.start()]
    digest = ContentDigest()
    digest.add("xml", data)
    digest.add_file("bin", path.with_suffix(".bin"))
    return digest.hexdigest()
