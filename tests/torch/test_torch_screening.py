"""Files that would run code when torch loads them are refused, and do not run it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from timmx_core.errors import ArtifactError
from timmx_torch import archive, saving, screening
from timmx_torch.backend import TorchExportBackend, TorchScriptBackend

MODEL = "models/model.json"
Graph = dict[str, Any]


class Small(torch.nn.Module):
    """Some shapes, so that a dynamic batch leaves expressions in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 4, 2) to (N * 2, 2)."""
        folded = image.transpose(1, 2).reshape(image.shape[0] * 2, 4)
        result: torch.Tensor = self.layer(folded)
        return result


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "good.pt2"
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    exported = torch.export.export(Small(), (torch.ones(2, 4, 2),), dynamic_shapes=shapes)
    saving.save_program(exported, path, saving.ports(["input"], ["output"]))
    return path


def changed(program: Path, target: Path, members: dict[str, bytes | None]) -> Path:
    """A copy with members replaced, added or (None) left out."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        replaced = {f"{root}/{name}": data for name, data in members.items()}
        for info in old.infolist():
            if info.filename not in replaced:
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info))
        for name, data in replaced.items():
            if data is not None:
                new.writestr(zipfile.ZipInfo(name), data)
    return target


def with_graph(program: Path, target: Path, change: Callable[[Graph], None]) -> Path:
    with archive.opened(program) as opened:
        graph = json.loads(opened.read(MODEL, 1 << 24) or b"")
    change(graph)
    return changed(program, target, {MODEL: json.dumps(graph).encode()})


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_good_file_passes_and_runs(program: Path) -> None:
    with TorchExportBackend().open(program, {}) as runner:
        for batch in (1, 3):
            result = runner.run({"input": torch.ones(batch, 4, 2).numpy()})
            assert result["output"].shape == (batch * 2, 2)


def test_pickled_sample_inputs_do_not_run(program: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    buffer = io.BytesIO()
    torch.save(((Bomb(trace),), {}), buffer)
    bad = changed(program, tmp_path / "bad.pt2", {"data/sample_inputs/model.pt": buffer.getvalue()})
    with pytest.raises(ArtifactError, match="sample inputs"):
        TorchExportBackend().open(bad, {})
    assert not trace.exists()


def test_pickled_weights_do_not_run(program: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    name = "data/weights/model_weights_config.json"
    with archive.opened(program) as opened:
        config = json.loads(opened.read(name, 1 << 20) or b"")
    for entry in config["config"].values():
        entry["use_pickle"] = True
    members = {
        name: json.dumps(config).encode(),
        "data/weights/weight_0": pickle.dumps(Bomb(trace)),
    }
    bad = changed(program, tmp_path / "bad.pt2", members)
    with pytest.raises(ArtifactError, match="weights are pickled"):
        TorchExportBackend().open(bad, {})
    assert not trace.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/evil.so",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/weights/model.pt",
        "data/executorch/x.pte",
        "models/second.json",
    ],
)
def test_what_a_plain_model_does_not_need_is_refused(
    program: Path, tmp_path: Path, member: str
) -> None:
    bad = changed(program, tmp_path / "bad.pt2", {member: b"x"})
    with pytest.raises(ArtifactError, match="may run code"):
        TorchExportBackend().open(bad, {})


def _set_target(target: str) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    return change


def _set_expression(node: Any, text: str) -> None:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "expr_str" in node:
        node["expr_str"] = text
    for child in children:
        _set_expression(child, text)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.serialization.load",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.image.write_file.default",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.sys.exit",
        "#evil",
        "torch.ops.aten.add.Tensor\nimport os",
    ],
)
def test_a_call_of_something_else_than_an_operator_is_refused(
    program: Path, tmp_path: Path, target: str
) -> None:
    bad = with_graph(program, tmp_path / "bad.pt2", _set_target(target))
    with pytest.raises(ArtifactError, match="a call of"):
        TorchExportBackend().open(bad, {})


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('{trace}')",
        "Symbol('s1').__class__",
        "().__class__.__bases__[0].__subclasses__()",
        "exec('1')",
        "eval(s1)",
        "1 .real",
        "1.0.real",
        "lambda: 0",
        "[x for x in (1,)]",
        "open(0)",
        "s1 if s1 else s2",
    ],
)
def test_an_expression_that_is_more_than_a_shape_is_refused(
    program: Path, tmp_path: Path, expression: str
) -> None:
    trace = tmp_path / "trace"
    text = expression.replace("{trace}", str(trace))
    bad = with_graph(program, tmp_path / "bad.pt2", lambda g: _set_expression(g, text))
    with pytest.raises(ArtifactError, match="an expression"):
        TorchExportBackend().open(bad, {})
    assert not trace.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(4), Symbol('s77', integer=True))",
        "FloorDiv(Symbol('s0', integer=True), Integer(2))",
        "2*s77 + 1",
        "Max(1, u0) >= 2",
        "Float('0.5', precision=53)",
    ],
)
def test_expressions_of_shapes_pass(expression: str) -> None:
    screening._check_string(expression, "expr_str")


def _set_name(graph: Graph) -> None:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["name"] = "x = __import__('os').system('true'); y"


def _set_guard(graph: Graph) -> None:
    graph["guards_code"] = ["__import__('os').system('true')"]


def _set_parameter(graph: Graph) -> None:
    specs = graph["graph_module"]["signature"]["input_specs"]
    specs[0]["parameter"]["parameter_name"] = 'a"), __import__("os").system("true'


def _set_container(graph: Graph) -> None:
    call = graph["graph_module"]["module_call_graph"][0]["signature"]
    call["in_spec"] = '[1, {"type": "subprocess.Popen", "context": "null", "children_spec": []}]'


@pytest.mark.parametrize("change", [_set_name, _set_guard, _set_parameter, _set_container])
def test_source_code_in_other_places_is_refused(
    program: Path, tmp_path: Path, change: Callable[[Graph], None]
) -> None:
    bad = with_graph(program, tmp_path / "bad.pt2", change)
    with pytest.raises(ArtifactError, match="its graph holds"):
        TorchExportBackend().open(bad, {})


def test_a_member_twice_is_refused(program: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(program.read_bytes())
    with zipfile.ZipFile(bad, "a") as zipped, pytest.warns(UserWarning, match="Duplicate"):
        zipped.writestr(zipped.namelist()[0], b"x")
    with pytest.raises(ArtifactError, match="twice"):
        TorchExportBackend().open(bad, {})


class Saving(torch.nn.Module):
    """A program that writes a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Writes `image` to `path`."""
        torch.save(image, self.path)
        return image


def test_a_script_that_writes_files_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "bad.pt"
    saving.save_script(torch.jit.script(Saving(str(trace))), path, saving.ports(["input"], ["o"]))
    with pytest.raises(ArtifactError, match="uses 'save'"):
        TorchScriptBackend().open(path, {})
    assert not trace.exists()


# ------------------------------------------------------------------------------- corpus
# Files that an earlier screening let through; with each, torch wrote the trace.


class Adding(torch.nn.Module):
    """A program that writes nothing."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Adds one."""
        return image + 1.0


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "good.pt"
    saving.save_script(torch.jit.script(Adding()), path, saving.ports(["input"], ["o"]))
    return path


CALLS = {
    "by attribute": 'torch.save(image, "{trace}")',
    "by a name in a string": 'getattr(torch, "save")(image, "{trace}")',
    "by a name with an escape": 'getattr(torch, "sa\\x76e")(image, "{trace}")',
    "by a name in two strings": 'getattr(torch, "sa" "ve")(image, "{trace}")',
    "by strings twice": 'getattr(getattr(ops, "aten"), "save")(image, "{trace}")',
    "across a comment": '(torch. # word\n save)(image, "{trace}")',
    "across lines": '(torch.\n save)(image, "{trace}")',
    "by another name": 't = torch\n    t.save(image, "{trace}")',
    "by the operators": 'ops.aten.save(image, "{trace}")',
    "by the operators under another name": 'o = ops\n    o.aten.save(image, "{trace}")',
    "a mapped file": '_0 = torch.from_file("{trace}", True, 4)',
    "operators of an extension": 'ops.image.write_jpeg(image, "{trace}", 75)',
    "a class in C++": '_0 = __torch__.torch.classes.profiler._RecordFunction("{trace}")',
}


def source_of(script: Path) -> tuple[str, str]:
    """The name and the text of the one source that a script has."""
    with archive.opened(script) as opened:
        (name,) = (n for n in opened.names("code/") if n.endswith(".py"))
        return name, (opened.read(name, 1 << 20) or b"").decode()


def scripted(script: Path, target: Path, call: str) -> Path:
    """A copy of a script with a call in its source."""
    name, source = source_of(script)
    source = source.replace("    return", f"    {call}\n    return", 1)
    return changed(script, target, {name: source.encode(), f"{name}.debug_pkl": None})


@pytest.mark.parametrize("way", CALLS)
def test_every_way_to_name_a_file_in_a_script_is_refused(
    script: Path, tmp_path: Path, way: str
) -> None:
    trace = tmp_path / "trace"
    bad = scripted(script, tmp_path / "bad.pt", CALLS[way].replace("{trace}", str(trace)))
    with pytest.raises(ArtifactError, match="its program uses"):
        TorchScriptBackend().open(bad, {})
    assert not trace.exists()


@pytest.mark.parametrize(("spelt", "other"), [("code/", "Code/"), (".py", ".PY")])
def test_a_source_that_only_torch_takes_for_one_is_refused(
    script: Path, tmp_path: Path, spelt: str, other: str
) -> None:
    """torch looks members up whatever the case of their letters."""
    trace = tmp_path / "trace"
    evil = scripted(script, tmp_path / "evil.pt", f'torch.save(image, "{trace}")')
    name, source = source_of(evil)
    members = {name: None, name.replace(spelt, other): source.encode(), "code/other.py": b""}
    bad = changed(evil, tmp_path / "bad.pt", members)
    with pytest.raises(ArtifactError, match="which torch did not write"):
        TorchScriptBackend().open(bad, {})
    both = changed(evil, tmp_path / "both.pt", {"Data.pkl": b"x"})
    with pytest.raises(ArtifactError, match="one name to torch"):
        TorchScriptBackend().open(both, {})
    assert not trace.exists()


def two_directories(evil: Path, good: Path, target: Path) -> Path:
    """One archive to readers that believe the offset of its directory, another to `zipfile`.

    Both hold members of the same names, so that their directories are of one size.
    """
    first, second = evil.read_bytes(), good.read_bytes()
    size, start = struct.unpack_from("<LL", first, len(first) - 10)
    size2, start2 = struct.unpack_from("<LL", second, len(second) - 10)
    assert size == size2
    pad = max(0, start2 - start)
    directory = bytearray(first[start : start + size])
    moved = bytearray(second[start2 : start2 + size])
    position = 0
    while position < size:
        for entries, shift in ((directory, pad), (moved, start + pad - start2)):
            (offset,) = struct.unpack_from("<L", entries, position + 42)
            struct.pack_into("<L", entries, position + 42, offset + shift)
        lengths = struct.unpack_from("<HHH", moved, position + 28)
        position += 46 + sum(lengths)
    end = bytearray(second[-22:])
    struct.pack_into("<L", end, 16, start + pad)
    parts = bytes(pad), first[:start], directory, second[:start2], moved, end
    target.write_bytes(b"".join(parts))
    return target


def test_an_archive_that_is_two_archives_is_refused(script: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    evil = scripted(script, tmp_path / "evil.pt", f'torch.save(image, "{trace}")')
    good = scripted(script, tmp_path / "good.pt", "image = torch.add(image, 0)")
    bad = two_directories(evil, good, tmp_path / "bad.pt")
    with zipfile.ZipFile(bad) as zipped:
        source = next(n for n in zipped.namelist() if n.endswith(".py"))
        assert b"save" not in zipped.read(source), "the trick works on zipfile"
    with pytest.raises(ArtifactError, match="something stands before it"):
        TorchScriptBackend().open(bad, {})
    assert not trace.exists()


def test_what_follows_an_archive_is_refused(script: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(script.read_bytes() + b"x")
    with pytest.raises(ArtifactError, match="something stands behind it"):
        TorchScriptBackend().open(bad, {})


def test_pickled_objects_of_classes_in_c_are_refused(script: Path, tmp_path: Path) -> None:
    bad = changed(
        script, tmp_path / "bad.pt", {"constants.pkl": b"\x80\x02c__torch__.torch\nclasses.x.Y\n."}
    )
    with pytest.raises(ArtifactError, match="C\\+\\+ classes"):
        TorchScriptBackend().open(bad, {})


def test_scripts_of_timm_pass(tmp_path: Path) -> None:
    """What torch writes for a traced model with numbered children."""
    import timm

    model = timm.create_model("test_resnet", exportable=True).eval()
    path = tmp_path / "good.pt"
    traced = torch.jit.trace(model, torch.ones(1, 3, 64, 64))
    saving.save_script(traced, path, saving.ports(["input"], ["output"]))
    with archive.opened(path) as opened:
        code = b"".join(opened.read(n, 1 << 24) or b"" for n in opened.names("code/"))
    assert b"getattr(" in code
    screening.screen_script(path)
