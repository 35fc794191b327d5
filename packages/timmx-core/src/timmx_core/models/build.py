"""A timm name, a checkpoint or an `nn.Module` becomes a `BuiltModel`: the untouched reference."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from timmx_core.errors import MissingDependency, ModelError, RequestError, first_line
from timmx_core.models.checks import parse_kwargs
from timmx_core.models.outputs import FeatureMap, Output, feature_maps
from timmx_core.models.preprocessing import Preprocessing, configuration, resolve, run_shapes
from timmx_core.models.weights import sources as weights
from timmx_core.models.weights.checkpoints import loading_failure, read_checkpoint
from timmx_core.process.interrupts import import_whole
from timmx_core.process.torch_state import seed

if TYPE_CHECKING:
    import torch

Task = Literal["classifier", "features", "embedding", "other"]


@dataclass
class BuiltModel:
    """The model in eval mode as timm builds it: not folded, not wrapped."""

    module: torch.nn.Module
    name: str  # as asked: "vit_tiny_patch16_224.augreg_in21k", "local-dir:..."; class of a module
    architecture: str
    task: Task
    preprocessing: Preprocessing
    weights: dict[str, Any]  # origin, source, tag, license, seed; for the manifest
    num_classes: int | None = None  # as timm says, and of the outputs once there are any
    headless: bool = False  # what it gives as (N, C) are pooled features
    adopted: bool = False  # a user's module, which may say of itself what is no longer so
    maps: tuple[FeatureMap, ...] = ()  # what timm says of its maps, in the order asked for
    order: tuple[int, ...] = ()  # where these stand in the module's result; empty: as they come
    outputs: tuple[Output, ...] = ()  # what it gave for an image
    several: bool = False  # it gives them in a sequence or mapping
    nested: bool = False  # in a mapping, or in sequences within another
    parameters: int = 0
    notes: list[str] = field(default_factory=list)


def build(
    model: str | torch.nn.Module, shared: Mapping[str, Any], build_options: Mapping[str, Any]
) -> BuiltModel:
    """Build the model that was asked for, with its weights, in eval mode.

    :param shared: the values of `timmx_core.request.shared_options.SHARED_OPTIONS`.
    :param build_options: further arguments of `timm.create_model`, of the format.
    :raises ModelError: unknown model; weights missing, unsafe or not fitting.
    :raises RequestError: an argument or size that the model does not take.
    """
    if isinstance(model, str):
        return _build_named(model, shared, build_options)
    from timmx_core.models.adoption import adopt

    return adopt(model, shared)


def _build_named(
    name: str, shared: Mapping[str, Any], build_options: Mapping[str, Any]
) -> BuiltModel:
    timm = import_timm()
    task = _task(shared)
    arguments: dict[str, Any] = {
        "in_chans": _in_chans(shared),
        "pretrained": shared["pretrained"],
        **parse_kwargs(shared["model_kwarg"]),
        **build_options,
    }
    if task == "features":
        arguments |= {"features_only": True, "out_indices": shared["out_indices"]}
    elif task == "embedding":
        arguments["num_classes"] = 0
    else:
        arguments["num_classes"] = shared["num_classes"]
    seed(shared["seed"])
    with _hub_in_reach(name, shared):
        module = _create(timm, name, arguments, shared["input_size"])
    module.eval()
    if name.startswith("local-dir:") and shared["pretrained"]:
        weights.check_folder(module, Path(name.removeprefix("local-dir:")))
    notes: list[str] = []
    if shared["checkpoint"]:
        state = read_checkpoint(Path(shared["checkpoint"]))
        notes += weights.load_into(module, state, shared["checkpoint"])
    config = configuration(module)
    prepared, more = resolve(module, shared, named=True)
    built = BuiltModel(
        module=module,
        name=name,
        architecture=str(config.get("architecture") or name.partition(".")[0]),
        task=task,
        preprocessing=prepared,
        weights=_origin(shared, config),
        parameters=sum(p.numel() for p in module.parameters()),
        notes=notes + more,
    )
    describe_outputs(built)
    _check_size(built, shared)
    return built


def import_timm() -> Any:
    """timm, or an error that names the cure.

    :raises MissingDependency: timm or torch cannot be imported here.
    """
    try:
        import_whole("torch", "timm")
        import timm
    except ImportError as error:
        raise MissingDependency(
            f"timm cannot be imported: {first_line(error)}",
            'pip install "timmx-core[timm]"',
        ) from error
    except RuntimeError as error:
        raise MissingDependency(
            f"torch and torchvision do not fit each other: {first_line(error)}",
            "install both from the same place; see: timmx doctor",
        ) from error
    return timm


def _hub_in_reach(name: str, shared: Mapping[str, Any]) -> AbstractContextManager[None]:
    """What to build within: the hub is not asked where the cache has the weights.

    :raises ModelError: they have to be downloaded, and the hub does not answer.
    """
    import timm

    asked = contextlib.nullcontext()
    if name.startswith(("hf-hub:", "hf_hub:")):
        if not weights.in_hub_cache(name.partition(":")[2]):
            weights.require_hub(weights.hub_endpoint(), f"cannot download the weights of {name}")
        return asked
    if not shared["pretrained"] or ":" in name:
        return asked
    config: Any = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    repo = getattr(config, "hf_hub_id", None)
    if repo and weights.in_hub_cache(repo):
        return weights.hub_cache_only()
    url = weights.hub_endpoint() if repo else getattr(config, "url", None)
    if url:
        weights.require_hub(url, f"cannot download the weights of {name}")
    return asked


def _task(shared: Mapping[str, Any]) -> Task:
    if shared["features"]:
        return "features"
    return "embedding" if shared["embedding"] else "classifier"


def _in_chans(shared: Mapping[str, Any]) -> int | None:
    if shared["in_chans"] is not None:
        return int(shared["in_chans"])
    return int(shared["input_size"][0]) if shared["input_size"] else None


def _create(
    timm: Any, name: str, arguments: dict[str, Any], size: tuple[int, int, int] | None
) -> torch.nn.Module:
    """`timm.create_model`, with `img_size` for those models that have a fixed one."""
    if size is not None:
        with_size = arguments | {"img_size": tuple(size[1:])}
        try:
            return _create_plain(timm, name, with_size)
        except RequestError as error:
            # Convolutional models take any size and know no such argument.
            if "img_size" not in error.message:
                raise
    return _create_plain(timm, name, arguments)


def _create_plain(timm: Any, name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    try:
        return _call_timm(timm, name, arguments)
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected is None:
            raise RequestError(f"{name} refused its arguments: {first_line(error)}") from error
        key = unexpected[1]
        option = {"features_only": "--features", "out_indices": "--out-indices"}.get(key)
        raise RequestError(
            f"{name} does not support {option}" if option else f"{name} has no argument {key}"
        ) from error
    except (OSError, RuntimeError) as error:
        text = first_line(error, 400)
        if arguments.get("features_only") and "features" in text.lower():
            raise RequestError(f"{name} does not support --features: {text}") from error
        raise ModelError(f"{name} cannot be built: {text}", _hint_for(error)) from error
    except (
        AssertionError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        NotImplementedError,
    ) as error:
        text = first_line(error, 400)
        if arguments.get("features_only"):
            if isinstance(error, IndexError):
                raise RequestError(
                    f"{name} has fewer feature maps than --out-indices asks for",
                    "0 is the first; export --features alone to see how many there are",
                ) from error
            raise RequestError(f"{name} does not support these --features: {text}") from error
        raise RequestError(f"{name} cannot be built with these options: {text}") from error


def _call_timm(timm: Any, name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """:raises ModelError: the files of its weights are damaged, unsafe or of another model."""
    try:
        model: torch.nn.Module = timm.create_model(name, **arguments)
        return model
    except Exception as error:
        failure = loading_failure(name, error)
        if failure is None:
            raise
        raise failure from error


def _hint_for(error: BaseException) -> str:
    kind = type(error).__module__
    return weights.HINT_OFFLINE if "hub" in kind or "http" in kind or "url" in kind else ""


def _origin(shared: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    if shared["checkpoint"]:
        return {"origin": "checkpoint", "source": _text(Path(shared["checkpoint"]).name)}
    if shared["pretrained"]:
        source = config.get("hf_hub_id") or config.get("url") or config.get("file")
        return {
            "origin": "pretrained",
            "tag": _text(config.get("tag")),
            "source": _text(source),
            "license": _text(config.get("license")),
        }
    return {"origin": "random", "seed": shared["seed"]}


def _text(value: Any) -> str | None:
    """What a configuration or a file's name says, as text that JSON can hold."""
    return str(value).encode("utf-8", "backslashreplace").decode() if value else None


def describe_outputs(built: BuiltModel) -> None:
    """What the module says of its outputs, as far as it can be known before they are there."""
    built.maps, built.order = feature_maps(built.module)
    if built.adopted and built.maps:
        # Its own order is what its user knows.
        built.maps = tuple(built.maps[built.order.index(i)] for i in range(len(built.maps)))
        built.order = ()
    count = getattr(built.module, "num_classes", None)
    built.num_classes = count if isinstance(count, int) and built.task == "classifier" else None
    built.headless = built.task == "embedding" or _is_headless(built.module, count)
    if built.headless and built.task == "classifier":
        built.task, built.num_classes = "embedding", None


def _is_headless(module: torch.nn.Module, count: Any) -> bool:
    """Whether what timm calls the classifier was left out, or taken away later."""
    import torch

    get_classifier: Any = getattr(module, "get_classifier", None)
    try:
        classifier = get_classifier() if callable(get_classifier) else None
    except AttributeError:  # of a head that was replaced by something else
        return False
    return isinstance(classifier, torch.nn.Identity) or (classifier is None and count == 0)


def _check_size(built: BuiltModel, shared: Mapping[str, Any]) -> None:
    """Run the shapes alone through the model where a size was asked for.

    :raises RequestError: the model cannot take that size.
    """
    if shared["input_size"] is None:
        return
    size = built.preprocessing.input_size
    try:
        run_shapes(built.module, size)
    except NotImplementedError:
        return  # an operator without a shape rule; the real run will tell
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        shown = "x".join(map(str, size))
        raise RequestError(
            f"{built.name} cannot take {shown}: {first_line(error)}",
            "leave --input-size out for the size that it was made for",
        ) from error
