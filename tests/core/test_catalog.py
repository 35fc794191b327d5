"""The names of models, without importing timm, are exactly those that timm gives."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from timmx_core.errors import MissingDependency
from timmx_core.models.names import catalog, pretrained_configs


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, in the process and in the home."""
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path / "home"))
    forget()
    yield
    forget()


def forget() -> None:
    catalog.model_names.cache_clear()
    catalog.pretrained_names.cache_clear()


@pytest.fixture(scope="session")
def from_timm() -> dict[str, list[str]]:
    """What timm itself says."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            (
                "import json, timm; print(json.dumps({'all': timm.list_models(),"
                "'pretrained': timm.list_models(pretrained=True)}))"
            ),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_names_are_those_of_timm(from_timm: dict[str, list[str]]) -> None:
    assert catalog.model_names() == from_timm["all"]


def test_pretrained_names_are_those_of_timm(from_timm: dict[str, list[str]]) -> None:
    assert catalog.pretrained_names() == from_timm["pretrained"]


def test_without_a_readable_source_timm_itself_is_asked(
    from_timm: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(source: str, registered: set[str]) -> set[str]:
        raise pretrained_configs.UnreadableSourceError

    monkeypatch.setattr(pretrained_configs, "with_weights", unreadable)
    assert catalog.pretrained_names() == from_timm["pretrained"]


def test_neither_timm_nor_torch_is_imported() -> None:
    code = (
        "import sys; from timmx_core.models.names import catalog; catalog.model_names();"
        "catalog.pretrained_names(); catalog.near_matches('resent50');"
        "print({'timm', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_cache_is_used_and_survives_damage(tmp_path: Path) -> None:
    names = catalog.pretrained_names()
    file = tmp_path / "home/cache/timm-pretrained.json"
    assert json.loads(file.read_text())["names"] == names
    forget()
    start = time.perf_counter()
    assert catalog.pretrained_names() == names
    assert time.perf_counter() - start < 0.1
    good = file.read_text()
    for damage in ("", "{", "[]", "null", '{"fingerprint": 1}', good.replace("names", "nimes")):
        file.write_text(damage)
        assert catalog._read_cache(file, json.loads(good)["fingerprint"]) is None
    forget()
    assert catalog.pretrained_names() == names
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_another_timm_makes_the_cache_again(tmp_path: Path) -> None:
    names = catalog.model_names()
    file = tmp_path / "home/cache/timm-models.json"
    file.write_text(json.dumps({"fingerprint": "of another timm", "names": ["old"]}))
    forget()
    assert catalog.model_names() == names


def test_a_home_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path / "file"))
    assert "resnet18" in catalog.model_names()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resent50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("efficientnetb0", "efficientnet_b0"),
        ("vit_base_ptch16_224", "vit_base_patch16_224"),
        ("mobilnetv3_small_100", "mobilenetv3_small_100"),
        ("tf-efficientnet-lite0", "tf_efficientnet_lite0"),
        ("convnext", "convnext_atto"),
        ("resnet50.a1_ink1k", "resnet50.a1_in1k"),
    ],
)
def test_near_matches(typed: str, meant: str) -> None:
    found = catalog.near_matches(typed)
    assert found[0] == meant
    assert len(found) <= 3


def test_nothing_is_near_nonsense() -> None:
    assert catalog.near_matches("zzzzzzzz") == []


def test_near_matches_are_quick() -> None:
    catalog.model_names()
    start = time.process_time()
    catalog.near_matches("vit_base_ptch16_224")
    assert time.process_time() - start < 0.1


def test_patterns_are_globs_or_parts() -> None:
    names = ["resnet18", "resnet18d", "seresnet18", "vit"]
    assert catalog.match(names, "ResNet18") == ["resnet18", "resnet18d", "seresnet18"]
    assert catalog.match(names, "resnet*d") == ["resnet18d"]
    assert catalog.match(names, "zz") == []


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependency) as caught:
        catalog.model_names()
    assert caught.value.hint == 'pip install "timmx-core[timm]"'
    assert catalog.near_matches("resnet") == []


SOURCE = """
import torch
from .elsewhere import helper, CONSTANT

def _cfg(url: Tensor = '', **kwargs):
    return {'url': url, 'mean': CONSTANT, **kwargs}

default_cfgs = generate_default_cfgs({
    'a.first': _cfg(),
    'a.second': _cfg(hf_hub_id='timm/'),
    'b': _cfg(url='there'),
    'c.*': dict(file='x'),
    'unregistered.x': _cfg(url='there'),
})
for name in list(default_cfgs):
    if name == 'b':
        default_cfgs['d.loop'] = _cfg(hf_hub_id=f'timm/{name}')

torch.explode()
"""


def test_only_configurations_are_run() -> None:
    found = pretrained_configs.with_weights(SOURCE, {"a", "b", "c", "d"})
    assert found == {"a.second", "b", "c", "d.loop"}


@pytest.mark.parametrize(
    "line",
    [
        "default_cfgs = generate_default_cfgs(helper())",
        "default_cfgs = {n: {} for n in CONSTANT}",
        "default_cfgs = 1 / 0",
        "default_cfgs = {'a': 5}",
        "def broken(:  # default_cfgs",
    ],
)
def test_a_source_in_a_new_manner_is_not_guessed_at(line: str) -> None:
    with pytest.raises(pretrained_configs.UnreadableSourceError):
        pretrained_configs.with_weights(f"from .x import helper, CONSTANT\n{line}\n", {"a"})


def test_nothing_of_the_working_folder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_timm: dict[str, list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("json", "timm", "torch"):
        trace = f"open({str(tmp_path / 'trace')!r}, 'w').write({name!r})\nraise SystemExit(1)\n"
        (tmp_path / f"{name}.py").write_text(trace)
    assert catalog._ask_timm() == from_timm["pretrained"]
    assert not (tmp_path / "trace").exists()
