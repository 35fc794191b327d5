"""The options that every format shares, as data.

The command line, `timmx_core.export(...)` and the documentation are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timmx_core.backend import Option

MODEL, INPUT, OUTPUT = "Model", "Input", "Output"
PRECISION, VERIFICATION = "Precision", "Verification"
LOWEST_FLOOR_DB = 1.0  # what ignores its input has 0 dB or less, and must never pass
GROUPS = (MODEL, INPUT, OUTPUT, PRECISION, VERIFICATION)

# Of images that become the input, as timm's evaluation has them.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
MOST_CROP = 8.0

SHARED_OPTIONS: tuple[Option, ...] = (
    Option("pretrained", "bool", "Load the published weights of MODEL.", False, group=MODEL),
    Option(
        "checkpoint",
        "path",
        "Load weights from a .safetensors or torch file.",
        group=MODEL,
        metavar="FILE",
    ),
    Option(
        "num_classes", "int", "Number of classes.", group=MODEL, minimum=1, unset="the model's own"
    ),
    Option(
        "model_kwarg",
        "str",
        "Further argument of the model's constructor; values are Python literals.",
        (),
        multiple=True,
        group=MODEL,
        metavar="KEY=VALUE",
    ),
    Option("features", "bool", "Export the feature maps instead of logits.", False, group=MODEL),
    Option(
        "out_indices",
        "ints",
        "Which feature maps, the first is 0: 1,2,3 (implies --features).",
        group=MODEL,
        metavar="I,J",
        unset="all",
    ),
    Option(
        "embedding", "bool", "Export the pooled features instead of logits.", False, group=MODEL
    ),
    Option(
        "seed",
        "int",
        "Seed of random weights (without --pretrained or --checkpoint).",
        0,
        group=MODEL,
        minimum=0,
    ),
    Option("device", "str", "Device that PyTorch uses: cpu, cuda, cuda:1.", "cpu", group=MODEL),
    Option(
        "in_chans",
        "int",
        "Number of input channels.",
        group=INPUT,
        minimum=1,
        unset="the model's own",
    ),
    Option(
        "input_size",
        "ints",
        "Size of the input image.",
        group=INPUT,
        arity=3,
        minimum=1,
        metavar="C H W",
        unset="the model's own",
    ),
    Option("batch_size", "int", "Batch size.", 1, group=INPUT, minimum=1),
    Option("dynamic_batch", "bool", "Let the batch size vary.", False, group=INPUT),
    Option(
        "batch_min",
        "int",
        "Least batch size (implies --dynamic-batch).",
        group=INPUT,
        minimum=1,
        unset="1",
    ),
    Option(
        "batch_opt",
        "int",
        "Batch size to tune for (implies --dynamic-batch).",
        group=INPUT,
        minimum=1,
        unset="--batch-size",
    ),
    Option(
        "batch_max",
        "int",
        "Largest batch size (implies --dynamic-batch).",
        group=INPUT,
        minimum=1,
        unset="any, or as many as the format takes",
    ),
    Option(
        "normalize",
        "bool",
        "Put mean and std into the file; the input is then in [0, 1].",
        False,
        group=INPUT,
    ),
    Option(
        "mean",
        "floats",
        "Mean per channel of pixels in [0, 1].",
        group=INPUT,
        metavar="M,M,M",
        unset="the model's own",
    ),
    Option(
        "std",
        "floats",
        "Standard deviation per channel.",
        group=INPUT,
        metavar="S,S,S",
        unset="the model's own",
    ),
    Option(
        "crop_pct",
        "float",
        "Share of a resized image that the crop keeps, for whoever prepares images.",
        group=INPUT,
        metavar="SHARE",
        unset="the model's own",
    ),
    Option(
        "interpolation",
        "str",
        "How images are resized.",
        group=INPUT,
        choices=INTERPOLATIONS,
        unset="the model's own",
    ),
    Option(
        "crop_mode",
        "str",
        "How images are cropped: center, squash (no regard to proportions), border.",
        group=INPUT,
        choices=CROP_MODES,
        unset="the model's own",
    ),
    Option(
        "uint8_input",
        "bool",
        "Take pixels 0..255 as uint8 (implies --normalize).",
        False,
        group=INPUT,
    ),
    Option("nhwc_input", "bool", "Take the image as N,H,W,C.", False, group=INPUT),
    Option(
        "output",
        "path",
        "File to write.",
        group=OUTPUT,
        short="-o",
        metavar="PATH",
        unset="the model's name with the format's suffix",
    ),
    Option("overwrite", "bool", "Replace an existing file.", False, group=OUTPUT),
    Option("softmax", "bool", "Give probabilities instead of logits.", False, group=OUTPUT),
    Option(
        "labels",
        "str",
        "Names of the classes: imagenet-1k, or a file with one name a line.",
        group=OUTPUT,
        metavar="imagenet-1k|FILE",
    ),
    Option(
        "calibration_data",
        "path",
        "Images (a folder) or an array (.npy, .npz, .pt) to calibrate with.",
        group=PRECISION,
        metavar="PATH",
    ),
    Option(
        "calibration_samples",
        "int",
        "How many samples to calibrate with.",
        128,
        group=PRECISION,
        minimum=1,
    ),
    Option(
        "calibration_preprocessed",
        "bool",
        "The calibration array is float and normalised already.",
        False,
        group=PRECISION,
    ),
    Option(
        "random_calibration",
        "bool",
        "Calibrate on synthetic images; the manifest says so.",
        False,
        group=PRECISION,
    ),
    Option("verify", "bool", "Check the finished file against PyTorch.", True, group=VERIFICATION),
    Option(
        "probe_data",
        "path",
        "Folder of images to verify with, beside the built-in probes.",
        group=VERIFICATION,
        metavar="DIR",
    ),
    Option(
        "floor",
        "float",
        "Accept a lower SNR, knowingly: lower every floor above DB decibels to DB.",
        group=VERIFICATION,
        minimum=LOWEST_FLOOR_DB,
        metavar="DB",
        unset="the precision's own",
    ),
    Option(
        "verify_timeout",
        "int",
        "Seconds after which the verification has failed.",
        900,
        group=VERIFICATION,
        minimum=1,
    ),
    Option(
        "require_verified",
        "bool",
        "Exit with 7 unless the verdict is verified, by whatever runtime.",
        False,
        group=VERIFICATION,
    ),
    Option(
        "accept_inconclusive",
        "bool",
        "Publish the file although nothing could be concluded.",
        False,
        group=VERIFICATION,
    ),
    Option(
        "keep_failed",
        "path",
        "Folder that keeps a file that was not published, for inspection.",
        group=VERIFICATION,
        metavar="DIR",
    ),
)

# Those about how and where a file is made. Those that measure, or name paths, are not of the file
# either.
NOT_OF_THE_FILE = frozenset({"device", "overwrite"})

CALIBRATION_OPTIONS = frozenset(
    {
        "calibration_data",
        "calibration_samples",
        "calibration_preprocessed",
        "random_calibration",
    }
)

# An option that is given -> others it sets, as `Backend.implies` says it of a format's own.
SHARED_IMPLIES: Mapping[str, Mapping[str, Any]] = {
    "uint8_input": {"normalize": True},
    "out_indices": {"features": True},
    "batch_min": {"dynamic_batch": True},
    "batch_opt": {"dynamic_batch": True},
    "batch_max": {"dynamic_batch": True},
}
