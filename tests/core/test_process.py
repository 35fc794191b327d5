"""Whatever is called, the process is afterwards as it was, and several threads may call."""

from __future__ import annotations

import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from pocket_format import PocketBackend
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import timmx_core
from timmx_core import api
from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel, Option
from timmx_core.errors import ExportError, PluginError, TimmxError
from timmx_core.plugins.manager import PluginManager
from timmx_core.process.interrupts import import_whole
from timmx_core.testing.models import INPUT_SIZE, TinyCNN, tiny_cnn
from timmx_core.testing.plugins import manager_of
from timmx_core.testing.process_state import changes, state

MKLDNN: Any = torch.backends.mkldnn  # its settings have no types


class RudeBackend(PocketBackend):
    """Sets whatever converters have been seen to set, and puts nothing back."""

    name = "rude"
    suffixes = (".rude",)
    options = (*PocketBackend.options, Option("fail", "bool", "Fail at the end.", False))

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        import logging

        artifact = super().export(model, request, context)
        print(f"{threading.current_thread().name} converts")
        os.environ["RUDE"] = "1"
        os.environ.pop("KNOWN_TO_RUDE", None)
        os.chdir(context.staging)
        sys.path.insert(0, str(context.staging))
        logging.basicConfig(level=logging.DEBUG, force=True)
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)
        if request.options["fail"]:
            raise ExportError(f"{threading.current_thread().name} failed")
        return artifact


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    return manager_of(PocketBackend(), RudeBackend())


def wanted(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    return {"output": folder / "model.rude", "input_size": INPUT_SIZE, "verify": verify}


@pytest.fixture(scope="module")
def made(manager: PluginManager, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    result = timmx_core.export("rude", tiny_cnn(), manager=manager, **wanted(folder))
    assert result.path is not None
    return result.path


# Given a manager, a file and an empty folder.
CALLS: dict[str, Callable[[PluginManager, Path, Path], object]] = {
    "export": lambda m, f, d: timmx_core.export(
        "rude", tiny_cnn(), manager=m, **wanted(d, verify=True)
    ),
    "export by name": lambda m, f, d: timmx_core.export(
        "pocket", "test_resnet", manager=m, output=d / "a.pocket", verify=False
    ),
    "failing export": lambda m, f, d: timmx_core.export(
        "rude", tiny_cnn(), manager=m, fail=True, **wanted(d)
    ),
    "refused export": lambda m, f, d: timmx_core.export("rude", "no_such_model", manager=m),
    "verify with images": lambda m, f, d: timmx_core.verify(
        f, manager=m, probe_data=images(d), model=tiny_cnn()
    ),
    "failing verify": lambda m, f, d: timmx_core.verify(d / "nothing.rude", manager=m),
    "inspect": lambda m, f, d: timmx_core.inspect(f, manager=m),
    "load_model": lambda m, f, d: timmx_core.load_model("test_resnet").capture(),
    "describe_model": lambda m, f, d: timmx_core.describe_model("test_resnet"),
}


def images(folder: Path) -> Path:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    (folder / "images").mkdir()
    Image.fromarray(pixels).save(folder / "images" / "one.png")
    return folder / "images"


@pytest.mark.parametrize("name", CALLS)
def test_the_process_is_as_it_was(
    name: str, manager: PluginManager, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWN_TO_RUDE", "yes")
    monkeypatch.chdir(tmp_path)
    timm.list_models()
    torch.manual_seed(3)
    before = state()
    failing = name.startswith(("failing", "refused"))
    try:
        CALLS[name](manager, made, tmp_path)
    except TimmxError:
        assert failing
    else:
        assert not failing
    assert changes(before, state()) == []


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def newer_setting(value: str) -> Iterator[None]:
    before = MKLDNN.conv.fp32_precision
    MKLDNN.conv.fp32_precision = value
    try:
        yield
    finally:
        MKLDNN.conv.fp32_precision = before


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def hook_of_all_modules(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


class Doubling(TorchFunctionMode):
    """Each linear layer gives twice what it would."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is nn.functional.linear else result


class Negating(TorchDispatchMode):
    """Each convolution gives the negative of what it would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return -result if func is torch.ops.aten.convolution.default else result


def doubled(module: nn.Module, given: Any, result: Any = None) -> Any:
    """As a hook before or after the forward of a module."""
    if not isinstance(module, nn.Linear):
        return None
    return tuple(x * 2 for x in given) if result is None else result * 2


AMBIENT: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: default_device("meta"),
    "device of a block": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "products": lambda: products_in("medium"),
    "convolutions": lambda: newer_setting("bf16"),
    "hooks after": lambda: hook_of_all_modules(torch_modules.register_module_forward_hook, doubled),
    "hooks before": lambda: hook_of_all_modules(
        torch_modules.register_module_forward_pre_hook, doubled
    ),
    "function mode": Doubling,
    "dispatch mode": Negating,
}


def bytes_of(given: Any, manager: PluginManager, folder: Path) -> bytes:
    result = timmx_core.export(
        "pocket",
        given,
        manager=manager,
        output=folder / "a.pocket",
        input_size=INPUT_SIZE,
        verify=False,
    )
    assert result.path is not None
    return result.path.read_bytes()


def of_kind(kind: str) -> Any:
    return "test_resnet" if kind == "named" else tiny_cnn()


@pytest.fixture(scope="module")
def plain(manager: PluginManager, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is made where nothing is set, by kind of model."""
    return {
        kind: bytes_of(of_kind(kind), manager, tmp_path_factory.mktemp("plain"))
        for kind in ("named", "module")
    }


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("kind", ["named", "module"])
def test_what_the_caller_has_set_does_not_go_into_the_file(
    ambient: str, kind: str, manager: PluginManager, plain: dict[str, bytes], tmp_path: Path
) -> None:
    """The bytes are those of a process that has set nothing."""
    given = of_kind(kind)
    with AMBIENT[ambient]():
        before = state()
        made = bytes_of(given, manager, tmp_path)
        assert changes(before, state()) == []
    assert made == plain[kind]


class Looking(TinyCNN):
    """Notes what is set while it runs."""

    seen: ClassVar[list[tuple[Any, ...]]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            Looking.seen.append(
                (
                    torch.is_autocast_enabled("cpu"),
                    torch.get_default_dtype(),
                    torch.get_float32_matmul_precision(),
                    MKLDNN.conv.fp32_precision,
                )
            )
        return super().forward(x)


def test_references_are_of_full_precision(manager: PluginManager, tmp_path: Path) -> None:
    Looking.seen.clear()
    with products_in("medium"), newer_setting("bf16"), torch.autocast("cpu"):
        timmx_core.load_model(Looking(), input_size=INPUT_SIZE).capture()
    assert set(Looking.seen) == {(False, torch.float32, "highest", "none")}


def test_cuda_computes_in_full_precision() -> None:
    """Its settings exist without a GPU; older and newer ones agree within and come back."""
    from timmx_core.process.torch_state import full_precision

    def settings() -> list[Any]:
        backends: Any = torch.backends
        return [
            backends.cudnn.allow_tf32,
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.conv.fp32_precision,
            backends.cudnn.rnn.fp32_precision,
            backends.cuda.matmul.fp32_precision,
        ]

    with products_in("high"), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = settings()
        assert before == [True, True, "tf32", "tf32", "tf32"]
        with full_precision("cuda:0"):
            assert settings()[:2] == [False, False]
            assert "tf32" not in settings()
        assert settings() == before


def test_a_device_shapes_neither_weights_nor_manifest(
    manager: PluginManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on the CPU under another name, as it is where there is no accelerator."""
    from timmx_core.lifecycle import reference as subject

    plain = timmx_core.export(
        "pocket", "test_resnet", manager=manager, output=tmp_path / "a.pocket", verify=False
    )
    monkeypatch.setattr(subject, "_device", lambda _: torch.device("cpu"))
    other = timmx_core.export(
        "pocket",
        "test_resnet",
        manager=manager,
        output=tmp_path / "b.pocket",
        verify=False,
        device="cuda:1",
        threads=2,
    )
    assert plain.path is not None
    assert other.path is not None
    assert plain.path.read_bytes() == other.path.read_bytes()


# ------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("verbose", [False, True])
def test_threads_export_one_after_the_other(
    manager: PluginManager, tmp_path: Path, verbose: bool
) -> None:
    """Streams are whole afterwards, and each failure has the log of its own export."""
    models = [tiny_cnn() for _ in range(6)]
    before = state()

    def export(number: int) -> TimmxError | None:
        try:
            timmx_core.export(
                "rude",
                models[number],
                manager=manager,
                output=tmp_path / f"{number}.rude",
                input_size=INPUT_SIZE,
                verify=False,
                verbose=verbose and number % 2 == 0,
                fail=number % 3 == 0,
            )
        except TimmxError as error:
            return error
        return None

    with ThreadPoolExecutor(4, thread_name_prefix="exporter") as pool:
        failures = list(pool.map(export, range(6)))
    assert changes(before, state()) == []
    print("whole", flush=True)
    for number, error in enumerate(failures):
        assert (error is None) == (number % 3 != 0)
        if error is None or (verbose and number % 2 == 0):
            continue
        thread = error.message.partition(" ")[0]
        assert error.log_path is not None
        said = [x for x in error.log_path.read_text().splitlines() if x.endswith("converts")]
        assert said == [f"{thread} converts"]


def test_a_thread_may_come_in_again(capfd: pytest.CaptureFixture[str]) -> None:
    before = state()
    with api.quiet(False):
        with api.quiet(True):
            print("inner")
        with pytest.raises(ExportError), api.quiet(False):
            raise ExportError("inner")
        print("outer")
    assert changes(before, state()) == []
    print("whole")
    assert capfd.readouterr().out == "whole\n"


# ------------------------------------------------------------- paths, hooks, formats of a script


def test_paths_that_are_no_text_stand_in_sys_path(
    manager: PluginManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path, None])
    asked = wanted(tmp_path, verify=True)
    result = timmx_core.export("rude", tiny_cnn(), manager=manager, **asked)
    assert result.verdict.status == "verified"


def test_hooks_of_the_owner_do_not_run(manager: PluginManager, tmp_path: Path) -> None:
    called: list[str] = []

    def note(*_: Any) -> None:
        called.append("hook")

    module = tiny_cnn()
    module.register_forward_hook(note)
    module.trunk.register_forward_pre_hook(note)
    module.head.register_full_backward_hook(note)
    module.register_state_dict_post_hook(note)
    module.register_state_dict_pre_hook(note)
    module.register_load_state_dict_pre_hook(note)
    result = timmx_core.export("rude", module, manager=manager, **wanted(tmp_path))
    assert called == []
    assert any("2 hooks" in note for note in result.notes)
    module(torch.zeros(1, *INPUT_SIZE))
    assert called == ["hook", "hook"]


def weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(module)


def mine(module: nn.Module) -> nn.Module:
    """Pruned by a method of the user's own."""
    from torch.nn.utils import prune

    class Half(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
            return default_mask * (torch.arange(t.numel()).reshape(t.shape) % 2)

    Half.apply(module, "weight")
    return module


COMPUTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrized": nn.utils.parametrizations.weight_norm,
    "parametrized spectral": nn.utils.parametrizations.spectral_norm,
    "pruned": mine,
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_weights_that_are_computed_stay_right(kind: str) -> None:
    """Changed after they were computed for the last time, as an optimiser does it."""
    module = tiny_cnn()
    module.trunk.block.conv1 = COMPUTED[kind](module.trunk.block.conv1)
    module.trunk.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        next(module.trunk.block.conv1.parameters()).mul_(3)
    module.eval()
    image = torch.rand(2, *INPUT_SIZE)
    module(image)  # which leaves tensors with gradients, where they are computed
    loaded = timmx_core.load_model(module, input_size=INPUT_SIZE)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image), module(image))


class Picking(nn.Module):
    """Takes what it needs out of its trunk by a hook, as many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_cnn()
        self.picked: list[torch.Tensor] = []
        self.body.trunk.register_forward_hook(self.pick)

    def pick(self, _: nn.Module, __: Any, result: torch.Tensor) -> None:
        self.picked = [result]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.body(x)
        return self.picked[0].mean((2, 3))


def test_hooks_that_belong_to_the_model_stay() -> None:
    module = Picking().eval()
    module.body.head.register_forward_hook(lambda *_: None)
    image = torch.rand(2, *INPUT_SIZE)
    loaded = timmx_core.load_model(module, input_size=INPUT_SIZE)
    assert module.picked == []
    torch.testing.assert_close(loaded.module(image), module(image))


def test_a_format_of_a_function_is_refused_at_once(tmp_path: Path) -> None:
    class Local(PocketBackend):
        def check_export(self, request: ExportRequest | None) -> None:
            pass

        def export(self, *_: Any) -> Artifact:
            raise AssertionError

    with pytest.raises(PluginError, match=r"cannot import .*Local: it is defined in a function"):
        timmx_core.export(
            "pocket",
            tiny_cnn(),
            manager=manager_of(Local()),
            output=tmp_path / "a.pocket",
            input_size=INPUT_SIZE,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_format_of_a_script_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RudeBackend, "__module__", "__main__")
    with pytest.raises(PluginError, match="defined in a script or notebook"):
        timmx_core.export(
            "rude", tiny_cnn(), manager=manager_of(RudeBackend()), **wanted(tmp_path, verify=True)
        )


def test_an_import_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be imported twice, such as torch, would be of no use any more."""
    (tmp_path / "once_only.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(.1)\nwhole = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_whole("once_only")
    assert sys.modules.pop("once_only").whole == 1
