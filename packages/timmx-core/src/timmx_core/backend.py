"""The nouns of the plugin contract: what a format says of itself, is given, and gives back.

Plain data and three abstract classes. Importing this module imports no click, torch, timm or
numpy, so that a plugin is light to import and one description of an option serves the command
line, the Python API, the documentation and isolated environments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

Transform = Literal["nhwc", "uint8", "normalize", "softmax"]
OptionType = Literal["bool", "int", "float", "str", "path", "ints", "floats"]
# "features": a map of the image; "other": nothing is known of what the numbers mean.
Role = Literal["image", "logits", "probabilities", "embedding", "features", "label", "other"]
Batch = tuple[int, int, int | None]
Dimension = int | tuple[int, int, int | None]

FORMAT_GROUP = "Format"


@dataclass(frozen=True)
class Option:
    """One flag as data: "input_size" is `--input-size` and `export(..., input_size=)`.

    `ints` and `floats` are lists: `arity` words where it is set, else one word with commas.
    A bool that defaults to True is offered as `--name/--no-name`.

    .. versionadded:: 0.1
    """

    name: str  # with underscores
    type: OptionType  # of the value, or of each where there are several
    help: str  # a sentence for `--help`
    default: Any = None  # None: nothing is passed on
    choices: tuple[str, ...] = ()  # the only words that a "str" may be
    multiple: bool = False  # may be given several times; the value is a tuple
    phase: Literal["export", "run"] = "export"  # "run": offered on verify too (providers, ...)
    group: str = FORMAT_GROUP  # heading in the help
    arity: int | None = None  # of lists of numbers: how many
    minimum: float | None = None  # of a number, inclusive
    metavar: str | None = None  # word for the value in the help
    short: str | None = None  # "-x"
    unset: str = "none"  # what a default of None stands for, in the help: "the model's own"
    versionadded: str = ""  # release that brought it, where that is not the distribution's first
    precisions: tuple[str, ...] = ()  # the only ones that it means something to; empty: all


@dataclass(frozen=True)
class Precision:
    """One word of `--precision`: what it does to weights and activations is stated, not implied.

    Inputs and outputs of a file stay float32 (or uint8) unless the format says otherwise in the
    `TensorSpec`s of its artifact.

    .. versionadded:: 0.1
    """

    name: str  # the word
    weights: str  # how they are stored: "int8 per channel"
    activations: str  # in what is computed between the layers
    floor_db: float  # the file against the fp32 PyTorch reference
    calibrated: bool = False  # takes the calibration options


@dataclass(frozen=True)
class TensorSpec:
    """A port of the file as stored. A dimension is an int or (min, opt, max); max None: open.

    .. versionadded:: 0.1
    """

    name: str  # as in the file
    shape: tuple[Dimension, ...]  # with the batch first
    dtype: str  # numpy's name: "float32", "uint8"
    role: Role  # what the numbers mean
    layout: str  # "NCHW", "NHWC", "NC", "NLC", "N"
    quantization: tuple[float, int] | None = None  # real = scale * (stored - zero_point)
    color: Literal["RGB", "BGR", "GRAY"] | None = None  # None: channels without a colour order
    range: tuple[float, float] | None = None  # of pixels, before mean and std
    mean: tuple[float, ...] = ()  # what the caller must still apply; empty: baked in
    std: tuple[float, ...] = ()  # likewise


@dataclass(frozen=True)
class ExportRequest:
    """What was asked, validated by core. JSON-able unless `model` is an `nn.Module`.

    .. versionadded:: 0.1
    """

    model: str | torch.nn.Module  # timm's name, `local-dir:...`, `hf-hub:...`, or a module
    format: str  # the name of the `Backend`
    precision: Precision  # the one that was asked for, or the default
    shared: Mapping[str, Any]  # core's options (`timmx_core.request.shared_options.SHARED_OPTIONS`)
    options: Mapping[str, Any]  # this format's, defaults filled in
    batch: Batch  # min, opt, max; (n, n, n): static; max None: open

    @property
    def dynamic_batch(self) -> bool:
        """Whether the file is to take more than one batch size."""
        return self.batch[0] != self.batch[2]

    def lowered(self, floor_db: float) -> float:
        """A floor of the format's own steps, as `--floor` leaves it; `precision` has its own so."""
        limit = self.shared.get("floor")
        return floor_db if limit is None else min(floor_db, float(limit))


class Capture(Protocol):
    """`torch.export` as core does it for every format: one place, one set of rules.

    .. versionadded:: 0.1
    """

    def __call__(
        self,
        module: torch.nn.Module | None = None,
        decompositions: Mapping[Any, Any] | None = None,
    ) -> torch.export.ExportedProgram:
        """Capture `module` (default: the loaded one) with this request's batch dimension.

        :param decompositions: given to `run_decompositions`; None leaves the program as captured.
        :raises ExportError: names the operator and the module that cannot be captured.
        """


@dataclass
class LoadedModel:
    """The model in eval mode, reparameterised, wrapped in the input contract less `absorb`.

    `example_inputs` have the batch size that capture wants (two where the batch is dynamic).

    .. versionadded:: 0.1
    """

    module: torch.nn.Module  # takes `example_inputs`, gives a tensor or a tuple of them
    example_inputs: tuple[torch.Tensor, ...]  # the one image batch, as `inputs` says
    inputs: tuple[TensorSpec, ...]  # of `module`; the first is named "input"
    outputs: tuple[TensorSpec, ...]  # named "output", or "features_0", ...
    labels: tuple[str, ...] | None  # of the classes, where the user named them
    capture: Capture  # `torch.export` of `module`
    absorb: frozenset[Transform] = frozenset()  # asked for, and left to the format's `absorbs`
    file_inputs: tuple[TensorSpec, ...] = ()  # `inputs` once the format has put `absorb` in
    file_outputs: tuple[TensorSpec, ...] = ()  # likewise; they differ where `absorb` is not empty
    mean: tuple[float, ...] = ()  # of pixels in [0, 1]; what "normalize" in `absorb` applies
    std: tuple[float, ...] = ()  # likewise


@dataclass(frozen=True)
class Comparison:
    """A further measurement beside the file's own. It can fail an export, never pass one.

    .. versionadded:: 0.1
    """

    label: str  # "ONNX given to the builder", "quantized program"
    got: Path | None = None  # None: the file
    want: Path | None = None  # None: the fp32 PyTorch reference
    formats: tuple[str | None, str | None] = (None, None)  # who opens got and want; None: this one
    floor_db: float | None = None  # None: the precision's
    inputs: tuple[TensorSpec, ...] | None = None  # of got, where they differ from the file's
    outputs: tuple[TensorSpec, ...] | None = None  # likewise


@dataclass
class Artifact:
    """What `export` left in staging. Only `primary` and `companions` are ever published.

    .. versionadded:: 0.1
    """

    primary: Path  # file or directory, put in place last
    inputs: tuple[TensorSpec, ...]  # as the file has them; often `LoadedModel.file_inputs`
    outputs: tuple[TensorSpec, ...]  # likewise, in the order of the manifest
    companions: tuple[Path, ...] = ()  # beside the primary: weights, external data
    comparisons: tuple[Comparison, ...] = ()  # further measurements beside the file itself
    report: Mapping[str, Any] = field(default_factory=dict)  # JSON-able: opset, operator counts
    notes: tuple[str, ...] = ()  # a line each in the summary ("kept 4 nodes in fp32: ...")


class Runner(AbstractContextManager["Runner"]):
    """A file in a runtime. Arrays exactly as its TensorSpecs say; core converts the pixels.

    .. versionadded:: 0.1
    """

    name: str  # "onnxruntime 1.32 CPUExecutionProvider"
    kind: Literal["native", "reference"] = "native"  # "reference": not the runtime that users have

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """One batch; names and dtypes in and out as stored."""

    def __exit__(self, *_: object) -> None:
        """Release the runtime; the default has nothing to release."""


class Context(ABC):
    """What core does for one export.

    .. versionadded:: 0.1
    """

    staging: Path  # the only place to write
    primary: Path  # in staging, with the name that the primary will have when published

    @abstractmethod
    def calibration(self, size: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
        """Batches in the form of `LoadedModel.inputs`; the format feeds its own quantizer.

        :param size: images in each batch, the last filled up with the first; None: as core likes.
        """

    @abstractmethod
    def probes(self, spec: TensorSpec) -> np.ndarray:
        """The probes of the verification in the form of an image port, all of them in one array.

        For steps that have to be tried: which operators must stay in fp32, whether an
        optimisation changes the result. The verdict itself is core's.
        """

    @abstractmethod
    def snr_db(self, outputs: Mapping[str, np.ndarray]) -> float:
        """The worst SNR of float results for the probes against PyTorch, -200 where one is broken.

        Below the floor of the precision where a single channel is lost, however high the whole is.

        :param outputs: by the names of `LoadedModel.outputs`, (rows, ...) in their layout; row i
            answers probe i modulo their number, and there may be more rows than probes.
        """

    @abstractmethod
    def derive(self, format: str, precision: str, **options: Any) -> Artifact:
        """Export this same model by another format of this environment, inside staging.

        The model was built once, with `Backend.build_options` of the format that derives.
        """

    @abstractmethod
    def stage(self, label: str) -> AbstractContextManager[None]:
        """A progress line; converter noise within it goes to the log."""


class Backend(ABC):
    """One format. Made without arguments; only methods marked heavy may import converters.

    .. versionadded:: 0.1
    """

    name: str  # timmx NAME MODEL: lowercase letters, digits, hyphens
    help: str  # one line
    suffixes: tuple[str, ...]  # with the dot; the first is the default
    precisions: tuple[Precision, ...]  # the first is the default
    options: Sequence[Option] = ()  # the format's own, beside those of core
    absorbs: frozenset[Transform] = frozenset()  # put into the file by the format itself
    refuses: Mapping[str, str] = {}  # shared option -> why; hidden from help
    folder_suffixes: tuple[str, ...] = ()  # those of `suffixes` whose primary is a folder
    companion_suffixes: tuple[str, ...] = ()  # of companions that share the primary's stem
    hashed_companion_suffixes: tuple[str, ...] = ()  # after <stem>-<8 digits of its own sha256>
    derives: tuple[str, ...] = ()  # formats that `export` goes through, with `Context.derive`
    implies: Mapping[str, Mapping[str, Any]] = {}  # an option that is given -> others it sets
    requires: tuple[str, ...] = ()  # distributions it imports: doctor, and the manifest's versions

    def check_export(self, request: ExportRequest | None) -> None:  # noqa: B027
        """Raise before torch loads where the request, or this machine (None), cannot do it.

        :raises RequestError: for what was asked.
        :raises MissingDependency: for what is not installed here.
        """

    def absorbed(self, request: ExportRequest) -> frozenset[Transform]:
        """Those of `absorbs` that the format puts in for this request; core puts in the others.

        Asked after `check_export`, for formats that leave it to an option.
        """
        return self.absorbs

    def build_options(self, request: ExportRequest) -> Mapping[str, Any]:
        """Further arguments of `timm.create_model` ("exportable", "scriptable")."""
        return {"exportable": True}

    @abstractmethod
    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """Convert (heavy), writing below `context.staging` only.

        :raises ExportError: names the operator, and the module it stands in.
        """

    def check_run(self) -> None:  # noqa: B027
        """Raise CannotRunHere where this machine lacks the runtime or device; cheap, for doctor."""

    def check_run_options(self, options: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise for a value that no machine has, in exports and in `timmx verify` alike.

        What exists and is not here is `open`'s to tell, with CannotRunHere. Heavy only for values
        that differ from the defaults.

        :param options: this format's options of phase "run", defaults filled in.
        :raises RequestError: a device or provider of such a name does not exist.
        """

    def preload(self) -> None:  # noqa: B027
        """Import the runtime (heavy). Called in the worker while the model is still converted."""

    @abstractmethod
    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """Open a file in the runtime (heavy, in core's worker), with full-precision arithmetic.

        :param options: this format's options of phase "run", defaults filled in.
        :raises CannotRunHere: gives the verdict `not verifiable here`.
        """

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Put the manifest into the file, before verification (heavy). False: there is no room."""
        return False

    def read(self, path: Path) -> bytes | None:
        """The embedded manifest. Bounded; runs nothing of the file, imports no converter.

        :return: None where the file is not of this format or holds no manifest.
        :raises ArtifactError: where it is of this format and broken.
        """
        return None

    def content_digest(self, path: Path) -> str | None:
        """sha256 of what the file computes: all of it and of its companions but the manifest.

        `embed` leaves it as it is, and so does another name of the file. Bounded; runs nothing of
        the file, imports no converter; `timmx_core.toolkit.content` has the means. None: the
        format has none, and a weight that was changed later shows only where it moves the output
        enough.

        :raises ArtifactError: a part is missing, or cannot be read.
        """
        return None

    def snippet(self, manifest: Mapping[str, Any]) -> str | None:
        """Lines of Python that run the file in its runtime, for `timmx inspect --snippet python`.

        They find `path` (str) and `x` (an array as the manifest's input says) defined, import what
        they need, and leave `outputs`, a list of arrays in the manifest's order. None: no Python.
        """
        return None
