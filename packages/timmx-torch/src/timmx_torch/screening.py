"""What a file may hold before torch opens it: torch's own loaders run what a file tells them to.

`torch.export.load` (2.15) unpickles weights, constants and sample inputs without restriction where
the archive says so, loads compiled libraries, resolves names like `torch.os.system` into nodes,
evaluates shape expressions with sympy, and makes Python source of names. A file that
`torch.export.save` wrote from a plain model needs none of that. A TorchScript file is a program,
in a language of its own that can read and write files.

No torch at import.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timmx_core.errors import ArtifactError
from timmx_torch.archive import Archive, BadArchive, opened

ZIP64 = 1  # the number of the field for sizes beyond 4 GB
MAX_GRAPH = 256 << 20
MAX_CODE = 64 << 20
MAX_PICKLE = 256 << 20
MAX_SAMPLES = 1 << 30

PT2_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|extra/[^/]+"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision|quantized_decomposed|torchao)(\.\w+){1,2}"
    r"|torch\.(sym_\w+|_sym_sqrt)|math\.trunc"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_"
    r"|lshift|rshift|getitem)"
)
FORBIDDEN_TARGETS = re.compile(r"torch\.ops\.aten\.from_file\b")
NAME = re.compile(r"[\w.+\-]*")  # becomes Python source: nothing here can call or quote
PATHS = frozenset({"fqn", "parameter_name", "buffer_name", "tensor_constant_name"})
PATH = re.compile(r"[^\"'\\\n\r]*")  # is quoted in Python source
# Shapes are sympy's own notation: "Add(Integer(1), Symbol('s77', positive=True))".
LITERAL = re.compile(r"'([a-z]{1,3}\d+|[\d.eE+\-]+)'")
EXPRESSION = re.compile(r"(?!.*\.\s*[A-Za-z_])[\w\s+\-*/%()<>=!.,&|~]*", re.ASCII | re.DOTALL)
WORD = re.compile(r"[A-Za-z_]\w*(?!\w|\s*=(?!=))")  # but not the name of an argument
SYMBOL = re.compile(r"[a-z]{1,3}\d+|e\d*")
FUNCTION = re.compile(
    "FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|"
    "RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|IsNonOverlappingAndDenseIndicator|"
    "TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|"
    "And|Or|Not|Abs|Piecewise|True|False|None|Symbol|Integer|Float|Rational|Add|Mul|Pow|"
    "Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|floor|ceiling|"
    "oo|int_oo"
)
CONTAINERS = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)

SCRIPT_MEMBERS = re.compile(
    # torch chooses the place of `version` by the operators (GELU: below .data).
    r"(\.data/)?version|byteorder|\.data/serialization_id|extra/[^/]+|code/[\w./]+\.py(\.debug_pkl)?"
    r"|(data|constants|traced_inputs)(\.pkl|/\d+)"
)
# Words by which a TorchScript program reaches files, wherever in its source they stand.
CODE_WORDS = re.compile(r"(?<!\w)(save|from_file|read_file|write_file|load_tensor)(?!\w)")
# Operators of torch and torchvision, and nothing done with `ops` itself.
CODE_NAMESPACES = re.compile(
    r"(?<!\w)ops(?!\w)(?!\.(aten|prim|prims|torchvision|quantized)\.).{0,20}"
)
# How torch writes an attribute whose name is a number. Any other way could spell a word above.
CODE_GETATTR = re.compile(r"(?<!\w)getattr\(\w+(\.\w+)*, \"[\w.]+\"\)")
# Classes of torch's own in C++, which are made from whatever a file gives them.
CODE_CLASSES = re.compile(r'torch[\s\\]*\.[\s\\]*classes(?!\w)|"classes"')
PICKLED_CLASSES = re.compile(rb"torch[.\n]classes[.\n]")


def screen_program(path: Path) -> bool:
    """Refuse a `.pt2` file that holds more than a graph, plain tensors and tensor samples.

    Heavy: the sample inputs are read with torch's restricted unpickler.

    :return: whether its graph uses the operators of quantized programs.
    :raises ArtifactError: names what it holds.
    """
    with _screened(path) as archive:
        for name in archive.names():
            if not PT2_MEMBERS.fullmatch(name):
                raise _refuse(path, f"it holds {name!r}, which may run code when it is loaded")
        for name in ("weights", "constants"):
            config = _json(archive, f"data/{name}/model_{name}_config.json")
            if any(entry.get("use_pickle", True) for entry in config.get("config", {}).values()):
                raise _refuse(path, f"its {name} are pickled")
        graph = archive.read("models/model.json", MAX_GRAPH) or b""
        try:
            _check(_json(archive, "models/model.json"))
        except _Suspicious as error:
            raise _refuse(path, f"its graph holds {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _refuse(path, "its graph holds what torch does not write") from None
        samples = archive.read("data/sample_inputs/model.pt", MAX_SAMPLES)
        if samples:
            _check_samples(path, samples)
        return b"torch.ops.quantized_decomposed." in graph


def screen_script(path: Path) -> None:
    """Refuse a TorchScript file whose program opens files or calls unknown extensions.

    :raises ArtifactError: names the call.
    """
    with _screened(path) as archive:
        for name in archive.names():
            if not SCRIPT_MEMBERS.fullmatch(name):
                raise _refuse(path, f"it holds {name!r}, which torch did not write")
            if name.endswith(".py"):
                code = (archive.read(name, MAX_CODE) or b"").decode("utf-8", "replace")
                found = _suspicious_code(code)
                if found:
                    raise _refuse(path, f"its program uses {found!r}")
            elif name.endswith(".pkl") and PICKLED_CLASSES.search(
                archive.read(name, MAX_PICKLE) or b""
            ):
                raise _refuse(path, f"{name} holds objects of torch's C++ classes")


def _suspicious_code(code: str) -> str:
    """What a TorchScript source should not hold; empty where all is well."""
    if "#" in code:  # torch writes no comments, and a parser reads a word across one
        return "#"
    for pattern in (CODE_WORDS, CODE_NAMESPACES, CODE_CLASSES):
        found = pattern.search(code)
        if found:
            return found.group(0)
    return "getattr" if "getattr" in CODE_GETATTR.sub("", code) else ""


class _Suspicious(ValueError):
    """What was found, as text."""


def _check(node: Any, key: str = "") -> None:
    """Walk the JSON of a graph; every string must be what its place allows."""
    if isinstance(node, dict):
        _check_object(node)
    elif isinstance(node, list):
        for item in node:
            _check(item, key)
    elif isinstance(node, str):
        _check_string(node, key)


def _check_object(node: Mapping[str, Any]) -> None:
    for key, value in node.items():
        _match(NAME, key, "a name")
        if key in ("metadata", "as_string"):
            continue  # never becomes code: strings for people, and arguments that stay strings
        if key == "guards_code" and value:
            raise _Suspicious("guards as Python source")
        _check(value, key)


def _check_string(value: str, key: str) -> None:
    if key == "target":
        _match(TARGETS, value, "a call of")
        if FORBIDDEN_TARGETS.match(value):
            raise _Suspicious(f"a call of {value!r}")
    elif key == "expr_str":
        bare = LITERAL.sub("0", value)
        _match(EXPRESSION, bare, "an expression")
        for word in WORD.findall(bare):
            if not FUNCTION.fullmatch(word) and not SYMBOL.fullmatch(word):
                raise _Suspicious(f"an expression with {word!r}")
    elif key in ("in_spec", "out_spec"):
        _check_containers(json.loads(value) if value else None)
    else:
        _match(PATH if key in PATHS else NAME, value, "a name")


def _check_containers(spec: Any) -> None:
    """How arguments nest: torch makes objects of the types that are named there."""
    if isinstance(spec, list):
        for item in spec:
            _check_containers(item)
    elif isinstance(spec, dict):
        if spec.get("type") not in CONTAINERS:
            raise _Suspicious(f"an argument of type {spec['type']!r}")
        if "__enum__" in str(spec.get("context")):
            raise _Suspicious("an enumeration among its arguments")
        _check_containers(spec.get("children_spec"))


def _match(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise _Suspicious(f"{what} {value[:80]!r}")


def _check_samples(path: Path, data: bytes) -> None:
    import torch

    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # whatever torch's unpickler raises
        raise _refuse(path, "its sample inputs are more than tensors") from error


def _json(archive: Archive, name: str) -> dict[str, Any]:
    data = archive.read(name, MAX_GRAPH)
    if data is None:
        raise BadArchive(f"it lacks {name}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadArchive(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise BadArchive(f"{name} is not an object")
    return value


@contextmanager
def _screened(path: Path) -> Iterator[Archive]:
    """An open archive without tricks: one root folder, no member twice, little compressed."""
    try:
        with opened(path) as archive:
            infos = archive.zipped.infolist()
            if len(infos) != len(archive.names()):
                raise BadArchive("it holds a member twice, or one outside its root folder")
            # torch's own reader takes no heed of upper and lower case, nor of what follows a NUL.
            if len({i.filename.lower() for i in infos}) != len(infos) or any(
                i.orig_filename != i.filename for i in infos
            ):
                raise BadArchive("it holds members whose names are one name to torch")
            if any(_doubly_sized(i.extra) for i in infos):
                raise BadArchive("it states where a member lies in two ways")
            packed = (i.file_size for i in infos if i.compress_type != zipfile.ZIP_STORED)
            if sum(packed) > MAX_CODE:
                raise BadArchive(f"it unpacks to more than {MAX_CODE} bytes")
            yield archive
    except BadArchive as error:
        raise _refuse(path, str(error)) from error


def _doubly_sized(extra: bytes) -> bool:
    """Whether an entry has several fields for sizes beyond 4 GB; readers differ on which counts."""
    count, position = 0, 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        count += kind == ZIP64
        position += 4 + size
    return count > 1


def _refuse(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path.name} is not opened: {why}", "timmx opens only what it could have written itself"
    )
