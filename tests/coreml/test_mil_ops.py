"""Every operation of the interpreter by itself, against torch or the converter's own inference.

Programs are saved and read back, so that the package, the protobuf and the weight file take part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mil_programs
import numpy as np
import pytest
import torch
from torch.nn import functional

mb = pytest.importorskip("coremltools.converters.mil").Builder


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(*shape: int, low: int = 0, high: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def check(
    tmp_path: Path,
    build: Callable[..., Any],
    arrays: list[np.ndarray],
    want: Any,
    target: str = "iOS16",
    tolerance: float = 1e-5,
) -> None:
    wanted = list(want) if isinstance(want, (tuple, list)) else [want]
    got = mil_programs.run(tmp_path / "m.mlpackage", build, arrays, target)
    assert len(got) == len(wanted)
    for have, expected in zip(got, wanted, strict=True):
        expected = np.asarray(expected)
        assert have.shape == expected.shape
        np.testing.assert_allclose(have, expected, rtol=tolerance, atol=tolerance)


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


# ---------------------------------------------------------------- against value inference

UNARY = {
    "abs": {},
    "atan": {},
    "ceil": {},
    "cos": {},
    "cosh": {},
    "erf": {},
    "exp": {},
    "exp2": {},
    "floor": {},
    "relu": {},
    "relu6": {},
    "round": {},
    "sigmoid": {},
    "sign": {},
    "sin": {},
    "sinh": {},
    "softplus": {},
    "softsign": {},
    "square": {},
    "tan": {},
    "tanh": {},
    "clamped_relu": {"alpha": 0.3, "beta": 0.7},
    "clip": {"alpha": -0.5, "beta": 0.4},
    "elu": {"alpha": 0.7},
    "leaky_relu": {"alpha": 0.1},
    "linear_activation": {"alpha": 2.0, "beta": -1.0},
    "scaled_tanh": {"alpha": 1.7, "beta": 0.6},
    "sigmoid_hard": {"alpha": 0.2, "beta": 0.5},
    "threshold": {"alpha": 0.1},
    "thresholded_relu": {"alpha": 0.4},
    "gelu": {"mode": "EXACT"},
    "softmax": {"axis": 1},
    "reduce_l1_norm": {"axes": [1]},
    "reduce_l2_norm": {"axes": [0, 2], "keep_dims": True},
    "reduce_log_sum_exp": {"axes": [-1]},
    "reduce_max": {"axes": [1, 2]},
    "reduce_mean": {"axes": [-1], "keep_dims": True},
    "reduce_min": {"axes": [0]},
    "reduce_prod": {"axes": [1]},
    "reduce_sum": {},
    "reduce_sum_square": {"axes": [2]},
    "reduce_argmax": {"axis": 1},
    "reduce_argmin": {"axis": -1, "keep_dims": True},
    "cumsum": {"axis": 1, "reverse": True},
    "band_part": {"lower": 1, "upper": 0},
    "expand_dims": {"axes": [0, -1]},
    "transpose": {"perm": [2, 0, 1]},
    "reverse": {"axes": [0, 2]},
    "tile": {"reps": [2, 1, 3]},
    "slice_by_size": {"begin": [0, 1, 2], "size": [2, -1, 2]},
    "reshape": {"shape": [0, -1, 2]},
}


@pytest.mark.parametrize("name", UNARY)
def test_as_the_converter_infers(name: str, tmp_path: Path) -> None:
    x = random(2, 3, 4)

    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x, **UNARY[name])

    want = mil_programs.inferred(build, [x], "iOS16")
    check(tmp_path, build, [x], want, tolerance=1e-4)


POSITIVE = {"sqrt": {}, "log": {"epsilon": 1e-3}, "rsqrt": {"epsilon": 1e-3},
            "inverse": {"epsilon": 1e-3}, "acos": {}, "asin": {}, "atanh": {},
            "reduce_log_sum": {"axes": [1]}}  # fmt: skip


@pytest.mark.parametrize("name", POSITIVE)
def test_as_the_converter_infers_above_zero(name: str, tmp_path: Path) -> None:
    x = np.abs(random(2, 3, 4)) % 0.9 + 0.05

    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x, **POSITIVE[name])

    check(tmp_path, build, [x], mil_programs.inferred(build, [x], "iOS16"), tolerance=1e-4)


BINARY = ("add", "sub", "mul", "real_div", "maximum", "minimum", "floor_div", "mod")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", ["float", "int"])
def test_binary_with_broadcasting(name: str, kind: str, tmp_path: Path) -> None:
    make = random if kind == "float" else lambda *s, seed: whole(*s, low=1, seed=seed)
    x, y = make(2, 1, 4, seed=1), make(3, 1, seed=2)
    y = y + np.sign(y) * (1 if kind == "float" else 0)

    def build(x: Any, y: Any) -> Any:
        return getattr(mb, name)(x=x, y=y)

    if (name, kind) == ("real_div", "int"):
        want: Any = (x // y).astype(np.int32)
    else:
        want = mil_programs.inferred(build, [x, y], "iOS16")
    check(tmp_path, build, [x, y], want, tolerance=1e-4)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name: str, tmp_path: Path) -> None:
    x, y = whole(4, 3, high=3, seed=1), whole(3, high=3, seed=2)

    def build(x: Any, y: Any) -> Any:
        return mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="int32")

    check(tmp_path, build, [x, y], mil_programs.inferred(build, [x, y], "iOS16"))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name: str, tmp_path: Path) -> None:
    x, y = whole(8, high=2, seed=1), whole(8, high=2, seed=2)

    def build(x: Any, y: Any) -> Any:
        a, b = mb.cast(x=x, dtype="bool"), mb.cast(x=y, dtype="bool")
        return mb.cast(x=mb.logical_not(x=getattr(mb, name)(x=a, y=b)), dtype="int32")

    want = ~getattr(np, name)(x.astype(bool), y.astype(bool))
    check(tmp_path, build, [x, y], want.astype(np.int32))


def test_pow(tmp_path: Path) -> None:
    x = np.abs(random(3, 4)) + 0.1
    check(tmp_path, lambda x: mb.pow(x=x, y=1.7), [x], x**1.7, tolerance=1e-4)


def test_cast_truncates(tmp_path: Path) -> None:
    x = np.array([-1.7, -0.2, 0.6, 2.9], np.float32)
    check(tmp_path, lambda x: mb.cast(x=x, dtype="int32"), [x], np.array([-1, 0, 0, 2]))


def test_select(tmp_path: Path) -> None:
    x, y = random(3, 4), random(4, seed=1)
    want = np.where(x > 0.1, x, y)
    check(tmp_path, lambda x, y: mb.select(cond=mb.greater(x=x, y=0.1), a=x, b=y), [x, y], want)


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(mode: str, tmp_path: Path) -> None:
    x = random(3, 5) * 3
    tensor = t(x)
    want = {
        "EXACT": functional.gelu(tensor),
        "TANH_APPROXIMATION": functional.gelu(tensor, approximate="tanh"),
        "SIGMOID_APPROXIMATION": tensor * torch.sigmoid(1.702 * tensor),
    }[mode]
    check(tmp_path, lambda x: mb.gelu(x=x, mode=mode), [x], want)


def test_silu(tmp_path: Path) -> None:
    x = random(3, 5)
    check(tmp_path, lambda x: mb.silu(x=x), [x], functional.silu(t(x)))


def test_prelu_and_parametric_softplus(tmp_path: Path) -> None:
    x, alpha, beta = random(2, 3, 4, 5), random(3, seed=1), random(3, seed=2)
    check(tmp_path / "a", lambda x: mb.prelu(x=x, alpha=alpha), [x],
          functional.prelu(t(x), t(alpha)))  # fmt: skip
    a, b = t(alpha).view(1, 3, 1, 1), t(beta).view(1, 3, 1, 1)
    check(tmp_path / "b", lambda x: mb.softplus_parametric(x=x, alpha=alpha, beta=beta), [x],
          a * functional.softplus(b * t(x)))  # fmt: skip


# ---------------------------------------------------------------- convolutions


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_groups(rank: int, groups: int, tmp_path: Path) -> None:
    x = random(2, 4, *[7] * rank)
    weight, bias = random(8, 4 // groups, *[3] * rank, seed=1), random(8, seed=2)
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    want = function(t(x), t(weight), t(bias), 2, 1, 1, groups)
    check(
        tmp_path,
        lambda x: mb.conv(
            x=x, weight=weight, bias=bias, strides=[2] * rank, pad_type="custom",
            pad=[1] * 2 * rank, groups=groups,
        ),
        [x],
        want,
        tolerance=1e-4,
    )  # fmt: skip


def test_conv_dilated_with_uneven_padding(tmp_path: Path) -> None:
    x, weight = random(1, 3, 9, 8), random(5, 3, 3, 2, seed=1)
    padded = functional.pad(t(x), (2, 1, 0, 3))
    want = functional.conv2d(padded, t(weight), None, (1, 2), 0, (2, 3))
    check(
        tmp_path,
        lambda x: mb.conv(
            x=x, weight=weight, strides=[1, 2], dilations=[2, 3], pad_type="custom",
            pad=[0, 3, 2, 1],
        ),
        [x],
        want,
        tolerance=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["same", "same_lower", "valid"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 2), (7, 4, 2), (7, 2, 1), (5, 1, 3)])
def test_conv_padding_types(kind: str, size: int, kernel: int, stride: int, tmp_path: Path) -> None:
    x, weight = random(1, 2, size, size), random(3, 2, kernel, kernel, seed=1)
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    small, large = total // 2, total - total // 2
    before, after = {"same": (small, large), "same_lower": (large, small), "valid": (0, 0)}[kind]
    padded = functional.pad(t(x), (before, after, before, after))
    want = functional.conv2d(padded, t(weight), None, stride)
    check(
        tmp_path,
        lambda x: mb.conv(x=x, weight=weight, strides=[stride, stride], pad_type=kind),
        [x],
        want,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(groups: int, tmp_path: Path) -> None:
    x, weight = random(1, 4, 5, 6), random(4, 3, 3, 3, seed=1)
    bias = random(3 * groups, seed=2)
    want = functional.conv_transpose2d(t(x), t(weight), t(bias), 2, 1, 0, groups)
    check(
        tmp_path,
        lambda x: mb.conv_transpose(
            x=x, weight=weight, bias=bias, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            groups=groups,
        ),
        [x],
        want,
        tolerance=1e-4,
    )  # fmt: skip


def test_conv_transpose_with_output_shape(tmp_path: Path) -> None:
    x, weight = random(1, 2, 4, 4), random(2, 3, 3, 3, seed=1)
    want = functional.conv_transpose2d(t(x), t(weight), None, 2, 1, 1)
    check(
        tmp_path,
        lambda x: mb.conv_transpose(
            x=x, weight=weight, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            output_shape=[1, 3, 8, 8],
        ),
        [x],
        want,
        tolerance=1e-4,
    )  # fmt: skip


# ---------------------------------------------------------------- pools


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pools(rank: int, name: str, tmp_path: Path) -> None:
    x = random(2, 3, *[9] * rank)
    function = getattr(functional, f"{name}{rank}d")
    check(
        tmp_path,
        lambda x: getattr(mb, name)(
            x=x, kernel_sizes=[3] * rank, strides=[2] * rank, pad_type="custom",
            pad=[1] * 2 * rank,
        ),
        [x],
        function(t(x), 3, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"),
    [(8, 3, 2, 0), (7, 2, 2, 0), (8, 3, 2, 1), (6, 3, 3, 1), (5, 2, 3, 1), (7, 3, 4, 1)],
)
def test_ceil_mode(
    name: str, size: int, kernel: int, stride: int, pad: int, tmp_path: Path
) -> None:
    x = random(1, 2, size, size) + 3
    want = getattr(functional, f"{name}2d")(t(x), kernel, stride, pad, ceil_mode=True)
    check(
        tmp_path,
        lambda x: getattr(mb, name)(
            x=x, kernel_sizes=[kernel] * 2, strides=[stride] * 2, pad_type="custom",
            pad=[pad] * 4, ceil_mode=True,
        ),
        [x],
        want,
    )  # fmt: skip


def test_avg_pool_without_counting_padding(tmp_path: Path) -> None:
    x = random(1, 2, 7, 7) + 1
    want = functional.avg_pool2d(t(x), 3, 2, 1, count_include_pad=False)
    check(
        tmp_path,
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        [x],
        want,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["same", "same_lower"])
def test_pool_same(kind: str, tmp_path: Path) -> None:
    x = random(1, 2, 7, 7)
    before, after = (0, 1) if kind == "same" else (1, 0)
    padded = functional.pad(t(x), (before, after) * 2, value=-torch.inf)
    check(
        tmp_path,
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[1, 1], pad_type=kind),
        [x],
        functional.max_pool2d(padded, 2, 1),
    )


def test_l2_pool(tmp_path: Path) -> None:
    x = random(1, 2, 6, 6)
    check(
        tmp_path,
        lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 3], strides=[2, 3], pad_type="valid"),
        [x],
        functional.lp_pool2d(t(x), 2.0, (2, 3), (2, 3)),
    )


# ---------------------------------------------------------------- normalizations, products


def test_batch_norm(tmp_path: Path) -> None:
    x, mean, gamma, beta = random(2, 3, 4, 4), *(random(3, seed=s) for s in (1, 2, 3))
    variance = np.abs(random(3, seed=4)) + 0.1
    want = functional.batch_norm(t(x), t(mean), t(variance), t(gamma), t(beta), eps=1e-3)
    check(
        tmp_path,
        lambda x: mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-3
        ),
        [x],
        want,
    )


@pytest.mark.parametrize("axes", [[-1], [1, 2], [2]])
def test_layer_norm(axes: list[int], tmp_path: Path) -> None:
    x = random(2, 3, 4)
    sizes = [x.shape[a] for a in axes]
    gamma, beta = random(*sizes, seed=1), random(*sizes, seed=2)
    want = functional.layer_norm(t(x), sizes, t(gamma), t(beta), 1e-4)
    check(
        tmp_path,
        lambda x: mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=1e-4),
        [x],
        want,
    )


def test_layer_norm_over_channels_first(tmp_path: Path) -> None:
    x, gamma, beta = random(2, 3, 4, 5), random(3, seed=1), random(3, seed=2)
    want = functional.layer_norm(t(x).movedim(1, -1), [3], t(gamma), t(beta), 1e-5).movedim(-1, 1)
    check(
        tmp_path,
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=gamma, beta=beta, epsilon=1e-5),
        [x],
        want,
    )


def test_instance_norm(tmp_path: Path) -> None:
    x, gamma, beta = random(2, 3, 4, 4), random(3, seed=1), random(3, seed=2)
    want = functional.instance_norm(t(x), weight=t(gamma), bias=t(beta), eps=1e-3)
    check(
        tmp_path,
        lambda x: mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=1e-3),
        [x],
        want,
        tolerance=1e-4,
    )


def test_local_response_norm(tmp_path: Path) -> None:
    x = random(1, 7, 3, 3)
    want = functional.local_response_norm(t(x), 3, 0.2, 0.5, 1.5)
    check(
        tmp_path,
        lambda x: mb.local_response_norm(x=x, size=3, alpha=0.2, beta=0.5, k=1.5),
        [x],
        want,
    )


def test_l2_norm(tmp_path: Path) -> None:
    x = random(2, 3, 4, 5)
    norm = torch.sqrt(t(x).square().sum((1, 2, 3), keepdim=True) + 1e-3)
    check(tmp_path, lambda x: mb.l2_norm(x=x, epsilon=1e-3), [x], t(x) / norm)


def test_linear(tmp_path: Path) -> None:
    x, weight, bias = random(2, 5, 4), random(3, 4, seed=1), random(3, seed=2)
    check(
        tmp_path,
        lambda x: mb.linear(x=x, weight=weight, bias=bias),
        [x],
        functional.linear(t(x), t(weight), t(bias)),
    )


@pytest.mark.parametrize("tx", [False, True])
@pytest.mark.parametrize("ty", [False, True])
def test_matmul(tx: bool, ty: bool, tmp_path: Path) -> None:
    x = random(2, 1, *((4, 3) if tx else (3, 4)))
    y = random(5, *((2, 4) if ty else (4, 2)), seed=1)
    want = np.matmul(x.swapaxes(-1, -2) if tx else x, y.swapaxes(-1, -2) if ty else y)
    check(
        tmp_path,
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=tx, transpose_y=ty),
        [x, y],
        want,
        tolerance=1e-4,
    )


@pytest.mark.parametrize(
    ("equation", "one", "two"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
    ],
)
def test_einsum(equation: str, one: tuple[int, ...], two: tuple[int, ...], tmp_path: Path) -> None:
    x, y = random(*one), random(*two, seed=1)
    check(
        tmp_path,
        lambda x, y: mb.einsum(values=(x, y), equation=equation),
        [x, y],
        np.einsum(equation, x, y),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_scaled_dot_product_attention(mask: str | None, tmp_path: Path) -> None:
    q, k, v = random(2, 3, 5, 4), random(2, 3, 6, 4, seed=1), random(2, 3, 6, 7, seed=2)
    bias = random(5, 6, seed=3)
    if mask == "bool":
        bias = bias > -0.5
        bias[:, 0] = True
    extra = {} if mask is None else {"attn_mask": bias}
    want = functional.scaled_dot_product_attention(
        t(q), t(k), t(v), None if mask is None else t(bias)
    )
    check(
        tmp_path,
        lambda x, y, z: mb.scaled_dot_product_attention(query=x, key=y, value=z, **extra),
        [q, k, v],
        want,
        "iOS18",
    )


# ---------------------------------------------------------------- slices and shapes

SLICES: list[tuple[dict[str, Any], Any]] = [
    ({"begin": [0, 1, 2], "end": [2, 3, 4]}, np.s_[0:2, 1:3, 2:4]),
    ({"begin": [0, -2, 1], "end": [1, 3, -1]}, np.s_[0:1, -2:3, 1:-1]),
    ({"begin": [1, 2, 4], "end": [0, 0, 0], "stride": [1, -1, -2],
      "end_mask": [True, False, True]}, np.s_[1:, 2:0:-1, 4::-2]),
    ({"begin": [9, 9, 0], "end": [9, 9, 5], "stride": [1, 2, 3],
      "begin_mask": [True, True, False], "end_mask": [True, True, False]},
     np.s_[:, ::2, 0:5:3]),
    ({"begin": [1, 0, -1], "end": [0, 3, 0], "squeeze_mask": [True, False, True]},
     np.s_[1, 0:3, -1]),
    ({"begin": [0, 1, 0], "end": [0, 0, 0], "squeeze_mask": [True, True, True]},
     np.s_[0, 1, 0]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SLICES)))
def test_slice_by_index(number: int, tmp_path: Path) -> None:
    x = random(2, 3, 5)
    arguments, index = SLICES[number]
    check(tmp_path, lambda x: mb.slice_by_index(x=x, **arguments), [x], x[index])


def test_slice_update(tmp_path: Path) -> None:
    x, y = random(3, 4, 5), random(1, 2, 3, seed=1)
    want = x.copy()
    want[1:2, 3:1:-1, 0:5:2] = y
    check(
        tmp_path,
        lambda x, y: mb.slice_update(
            x=x, update=y, begin=[1, 3, 0], end=[2, 1, 5], stride=[1, -1, 2]
        ),
        [x, y],
        want,
        "iOS18",
    )


def test_concat_split_stack_squeeze(tmp_path: Path) -> None:
    x, y = random(2, 3, 4), random(2, 2, 4, seed=1)

    def build(x: Any, y: Any) -> Any:
        joined = mb.concat(values=[x, y], axis=-2)
        a, b = mb.split(x=joined, split_sizes=[1, 4], axis=1)
        c, d = mb.split(x=b, num_splits=2, axis=1)
        return mb.squeeze(x=a, axes=[1]), mb.stack(values=[c, d], axis=0)

    joined = np.concatenate([x, y], 1)
    check(tmp_path, build, [x, y], [joined[:, 0], np.stack([joined[:, 1:3], joined[:, 3:]])])


def test_concat_interleaved(tmp_path: Path) -> None:
    x, y = random(1, 2, 3, 3), random(1, 2, 3, 3, seed=1)
    want = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    check(tmp_path, lambda x, y: mb.concat(values=[x, y], axis=1, interleave=True), [x, y], want)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(mode: str, tmp_path: Path) -> None:
    x = random(1, 2, 4, 5)
    extra = {"value": 0.5} if mode == "constant" else {}
    want = functional.pad(t(x), (2, 1, 3, 0), mode=mode, **extra)
    check(
        tmp_path,
        lambda x: mb.pad(x=x, pad=[3, 0, 2, 1], mode=mode, constant_val=0.5),
        [x],
        want,
    )


def test_rearrangements(tmp_path: Path) -> None:
    x = random(2, 8, 4, 6)

    def build(x: Any) -> Any:
        return (
            mb.pixel_shuffle(x=x, upscale_factor=2),
            mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
            mb.space_to_depth(x=x, block_size=2),
            mb.depth_to_space(x=x, block_size=2),
            mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[1, 1], [0, 2]]),
            mb.batch_to_space(
                x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[0, 0], [0, 0]]),
                block_shape=[2, 3],
                crops=[[1, 0], [0, 1]],
            ),
        )

    n, c, h, w = x.shape
    deep = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    wide = x.reshape(n, 2, 2, c // 4, h, w).transpose(0, 3, 4, 1, 5, 2)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 2)))
    blocks = padded.reshape(n, c, 3, 2, 4, 2).transpose(3, 5, 0, 1, 2, 4)
    want = [
        functional.pixel_shuffle(t(x), 2),
        functional.pixel_unshuffle(t(x), 2),
        deep.reshape(n, c * 4, h // 2, w // 2),
        wide.reshape(n, c // 4, h * 2, w * 2),
        blocks.reshape(n * 4, c, 3, 4),
        x[:, :, 1:, :-1],
    ]
    check(tmp_path, build, [x], want)


def test_windows_crops_and_sequences(tmp_path: Path) -> None:
    x = random(3, 4, 6)

    def build(x: Any) -> Any:
        return (
            mb.sliding_windows(x=x, axis=1, size=3, stride=1),
            mb.crop(x=x, crop_height=[1, 1], crop_width=[2, 0]),
            mb.reverse_sequence(x=x, lengths=[1, 3, 4], seq_axis=1, batch_axis=0),
        )

    flipped = x.copy()
    for i, length in enumerate((1, 3, 4)):
        flipped[i, :length] = x[i, :length][::-1]
    windows = np.stack([x[:, 0:3], x[:, 1:4]], 1)
    check(tmp_path, build, [x], [windows, x[:, 1:3, 2:], flipped])


def test_flatten_and_reshape_like(tmp_path: Path) -> None:
    x, y = random(2, 3, 4), random(6, 4, seed=1)

    def build(x: Any, y: Any) -> Any:
        like = mb.reshape_like(x=x, ref_tensors=(y,), begins=(0,), ends=(2,), end_masks=(False,))
        return mb.flatten2d(x=x, axis=2), mb.add(x=like, y=y)

    check(tmp_path, build, [x, y], [x.reshape(6, 4), x.reshape(6, 4) + y])


# ---------------------------------------------------------------- index operations


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("k", [1, 3])
def test_topk(ascending: bool, axis: int, k: int, tmp_path: Path) -> None:
    x = random(4, 5)
    values, indices = torch.topk(t(x), k, axis, largest=not ascending)
    check(
        tmp_path,
        lambda x: mb.topk(x=x, k=k, axis=axis, ascending=ascending),
        [x],
        [values, indices],
    )


def test_topk_among_equals_and_without_indices(tmp_path: Path) -> None:
    x = np.array([[1, 3, 3, 2, 3]], np.float32)
    check(tmp_path / "a", lambda x: mb.topk(x=x, k=2, axis=1)[1], [x], np.array([[1, 2]]))
    check(
        tmp_path / "b",
        lambda x: mb.topk(x=x, k=2, axis=1, return_indices=False),
        [x],
        np.array([[3, 3]]),
    )


def test_argsort(tmp_path: Path) -> None:
    x = random(3, 5)
    check(tmp_path, lambda x: mb.argsort(x=x, axis=1, ascending=True), [x], x.argsort(1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(axis: int, tmp_path: Path) -> None:
    x, y = random(4, 5, 6), whole(2, 3, low=-4, high=4)
    check(
        tmp_path,
        lambda x, y: mb.gather(x=x, indices=y, axis=axis),
        [x, y],
        np.take(x, y, axis=axis),
    )


def test_gather_with_batch_dimensions(tmp_path: Path) -> None:
    x, y = random(2, 4, 5), whole(2, 3, high=5)
    want = np.stack([x[i][:, y[i]] for i in range(2)])
    check(
        tmp_path,
        lambda x, y: mb.gather(x=x, indices=y, axis=2, batch_dims=1),
        [x, y],
        want,
        "iOS17",
    )


def test_gather_along_axis_and_nd(tmp_path: Path) -> None:
    x, y = random(3, 4), whole(3, 2, high=3)

    def build(x: Any, y: Any) -> Any:
        return mb.gather_along_axis(x=x, indices=y, axis=1), mb.gather_nd(x=x, indices=y)

    want = [np.take_along_axis(x, y, 1), x[y[:, 0], y[:, 1]]]
    check(tmp_path, build, [x, y], want)


@pytest.mark.parametrize("mode", ["update", "add", "sub", "mul", "div", "max", "min"])
def test_scatter(mode: str, tmp_path: Path) -> None:
    x, y = random(4, 5) + 3, random(2, 5, seed=1) + 2
    index = [2, 0]
    operations: dict[str, Callable[[Any, Any], Any]] = {
        "update": lambda a, b: b, "add": np.add, "sub": np.subtract, "mul": np.multiply,
        "div": np.divide, "max": np.maximum, "min": np.minimum,
    }  # fmt: skip
    want = x.copy()
    for i, row in enumerate(index):
        want[row] = operations[mode](x[row], y[i])

    def build(x: Any, y: Any) -> Any:
        full = mb.tile(x=np.array([[2], [0]], np.int32), reps=[1, 5])
        return (
            mb.scatter(data=x, indices=index, updates=y, axis=0, mode=mode),
            mb.scatter_along_axis(data=x, indices=full, updates=y, axis=0, mode=mode),
            mb.scatter_nd(data=x, indices=[[2], [0]], updates=y, mode=mode),
        )

    check(tmp_path, build, [x, y], [want] * 3, tolerance=1e-4)


def test_creation(tmp_path: Path) -> None:
    x = whole(3, high=4)

    def build(x: Any) -> Any:
        size = mb.shape(x=mb.one_hot(indices=x, one_hot_vector_size=4, on_value=2, off_value=-1))
        return (
            mb.one_hot(indices=x, one_hot_vector_size=4, axis=0, on_value=2, off_value=-1),
            mb.fill(shape=size, value=1.5),
            mb.range_1d(start=0, end=mb.gather(x=size, indices=1, axis=0), step=2),
            mb.fill_like(ref_tensor=x, value=3),
        )

    hot = np.full((4, 3), -1)
    hot[x, np.arange(3)] = 2
    check(tmp_path, build, [x], [hot, np.full((3, 4), 1.5), [0, 2], [3, 3, 3]])


def test_cumsum_exclusive(tmp_path: Path) -> None:
    x = random(2, 4)
    want = np.concatenate([np.zeros((2, 1)), np.cumsum(x, 1)[:, :-1]], 1)
    check(tmp_path, lambda x: mb.cumsum(x=x, axis=1, exclusive=True), [x], want)


def test_non_zero(tmp_path: Path) -> None:
    x = np.array([[0, 1], [2, 0]], np.float32)
    check(tmp_path, lambda x: mb.non_zero(x=x), [x], np.array([[0, 1], [1, 0]]))


# ---------------------------------------------------------------- resizing


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.5])
def test_upsample_bilinear(align: bool, scale: float, tmp_path: Path) -> None:
    x = random(1, 2, 6, 4)
    want = functional.interpolate(
        t(x), scale_factor=scale, mode="bilinear", align_corners=align, recompute_scale_factor=True
    )
    check(
        tmp_path,
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=scale, scale_factor_width=scale, align_corners=align
        ),
        [x],
        want,
    )


# The grid points that the operation's documentation lists for Xin = 2, by mode and Xout.
GRID_POINTS = {
    ("UNALIGN_CORNERS", 5): [0, 0.1, 0.5, 0.9, 1],
    ("STRICT_ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("DEFAULT", 5): [0, 0.4, 0.8, 1, 1],
    ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9],
    ("UNALIGN_CORNERS", 6): [0, 0, 1 / 3, 2 / 3, 1, 1],
    ("DEFAULT", 6): [0, 1 / 3, 2 / 3, 1, 1, 1],
    ("OFFSET_CORNERS", 6): [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12],
    ("ALIGN_CORNERS", 1): [0.5],
    ("STRICT_ALIGN_CORNERS", 1): [0],
}


@pytest.mark.parametrize(("mode", "count"), GRID_POINTS)
def test_resize_bilinear(mode: str, count: int, tmp_path: Path) -> None:
    x = np.array([[[[0, 1], [0, 1]]]], np.float32)
    want = np.array(GRID_POINTS[mode, count], np.float32).reshape(1, 1, 1, count).repeat(2, 2)

    def build(x: Any) -> Any:
        return mb.resize_bilinear(
            x=x, target_size_height=2, target_size_width=count, sampling_mode=mode
        )

    check(tmp_path, build, [x], want)


def test_resize_to_a_shape(tmp_path: Path) -> None:
    x = random(1, 2, 4, 6)
    want = functional.interpolate(t(x), (8, 9), mode="bilinear", align_corners=False)
    check(
        tmp_path,
        lambda x: mb.resize(
            x=x, shape=[8, 9], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        [x],
        want,
        "iOS17",
    )


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (2, 3)])
def test_nearest_neighbours(size: tuple[int, int], tmp_path: Path) -> None:
    x = random(1, 2, 4, 6)
    want = functional.interpolate(t(x), size, mode="nearest")
    check(
        tmp_path,
        lambda x: mb.resize_nearest_neighbor(
            x=x, target_size_height=size[0], target_size_width=size[1]
        ),
        [x],
        want,
    )


def test_upsample_nearest(tmp_path: Path) -> None:
    x = random(1, 2, 4, 6)
    check(
        tmp_path,
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        [x],
        functional.interpolate(t(x), (8, 18), mode="nearest"),
    )


@pytest.mark.parametrize("padding", ["constant", "border", "reflection"])
def test_resample(padding: str, tmp_path: Path) -> None:
    x, y = random(1, 2, 5, 6), random(1, 3, 4, 2, seed=1)
    torch_word = {"constant": "zeros"}.get(padding, padding)
    want = functional.grid_sample(t(x), t(y), padding_mode=torch_word, align_corners=True)
    check(
        tmp_path,
        lambda x, y: mb.resample(
            x=x, coordinates=y, sampling_mode="bilinear", padding_mode=padding, padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one", align_corners=True,
        ),
        [x, y],
        want,
        tolerance=1e-4,
    )  # fmt: skip


def test_crop_resize(tmp_path: Path) -> None:
    x = random(1, 2, 9, 9)

    def build(x: Any) -> Any:
        return mb.crop_resize(
            x=x, boxes=np.array([[1, 2, 5, 8]], np.float32), box_indices=np.array([0], np.int32),
            target_height=5, target_width=4, sampling_mode="ALIGN_CORNERS",
            box_coordinate_mode="CORNERS_HEIGHT_FIRST",
        )  # fmt: skip

    want = functional.interpolate(t(x)[:, :, 1:6, 2:9], (5, 4), mode="bilinear", align_corners=True)
    check(tmp_path, build, [x], want, "iOS17")


# ---------------------------------------------------------------- recurrent layers, control flow


def _lstm_weights(layer: torch.nn.LSTM, suffix: str) -> list[np.ndarray]:
    """torch has input, forget, cell, output; Core ML input, forget, output, cell."""

    def order(tensor: torch.Tensor) -> np.ndarray:
        i, f, g, o = tensor.detach().chunk(4)
        return torch.cat([i, f, o, g]).numpy()

    bias = getattr(layer, f"bias_ih_l0{suffix}") + getattr(layer, f"bias_hh_l0{suffix}")
    return [
        order(getattr(layer, f"weight_ih_l0{suffix}")),
        order(getattr(layer, f"weight_hh_l0{suffix}")),
        order(bias),
    ]


def test_lstm_forward_and_reverse(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.LSTM(3, 4)
    x, h, c = random(5, 2, 3), random(2, 4, seed=1), random(2, 4, seed=2)
    ih, hh, bias = _lstm_weights(layer, "")
    state = (t(h)[None], t(c)[None])
    for direction, given in (("forward", t(x)), ("reverse", t(x).flip(0))):
        output, (last, cell) = layer(given, state)
        output = output if direction == "forward" else output.flip(0)
        check(
            tmp_path / direction,
            lambda x, d=direction: mb.lstm(
                x=x, initial_h=h, initial_c=c, weight_ih=ih, weight_hh=hh, bias=bias,
                direction=d, output_sequence=True,
            ),
            [x],
            [o.detach() for o in (output, last[0], cell[0])],
        )  # fmt: skip


def test_lstm_bidirectional(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.LSTM(3, 4, bidirectional=True)
    x, h, c = random(5, 2, 3), random(2, 8, seed=1), random(2, 8, seed=2)
    ih, hh, bias = _lstm_weights(layer, "")
    ih_back, hh_back, bias_back = _lstm_weights(layer, "_reverse")
    start = [torch.stack(t(a).chunk(2, -1)) for a in (h, c)]
    output, (last, cell) = layer(t(x), tuple(start))
    check(
        tmp_path,
        lambda x: mb.lstm(
            x=x, initial_h=h, initial_c=c, weight_ih=ih, weight_hh=hh, bias=bias,
            weight_ih_back=ih_back, weight_hh_back=hh_back, bias_back=bias_back,
            direction="bidirectional", output_sequence=True,
        ),
        [x],
        [o.detach() for o in (output, torch.cat(list(last), -1), torch.cat(list(cell), -1))],
    )  # fmt: skip


def test_gru(tmp_path: Path) -> None:
    x, h = random(4, 2, 3), random(2, 5, seed=1)
    ih, hh, bias = random(15, 3, seed=2), random(15, 5, seed=3), random(15, seed=4)
    state, outputs = h, []
    (wr, wz, wo), (ur, uz, uo), (br, bz, bo) = (np.split(w, 3) for w in (ih, hh, bias))

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + np.exp(-a))

    for step in x:
        r = sigmoid(step @ wr.T + state @ ur.T + br)
        z = sigmoid(step @ wz.T + state @ uz.T + bz)
        o = np.tanh(step @ wo.T + (r * state) @ uo.T + bo)
        state = (1 - z) * o + z * state
        outputs.append(state)
    check(
        tmp_path,
        lambda x: mb.gru(
            x=x, initial_h=h, weight_ih=ih, weight_hh=hh, bias=bias, output_sequence=True
        ),
        [x],
        [np.stack(outputs), state],
        tolerance=1e-4,
    )


def test_rnn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer: Any = torch.nn.RNN(3, 4)
    x, h = random(5, 2, 3), random(2, 4, seed=1)
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().numpy()
    output, last = layer(t(x), t(h)[None])
    check(
        tmp_path,
        lambda x: mb.rnn(
            x=x, initial_h=h, weight_ih=layer.weight_ih_l0.detach().numpy(),
            weight_hh=layer.weight_hh_l0.detach().numpy(), bias=bias, output_sequence=True,
        ),
        [x],
        [output.detach(), last[0].detach()],
    )  # fmt: skip


@pytest.mark.parametrize("start", [1.0, 7.0])
def test_branches_and_loops(start: float, tmp_path: Path) -> None:
    x = np.array([start], np.float32)

    def build(x: Any) -> Any:
        small = mb.squeeze(x=mb.less(x=x, y=5.0), axes=[0])
        branch = mb.cond(
            pred=small, _true_fn=lambda: mb.add(x=x, y=1.0), _false_fn=lambda: mb.mul(x=x, y=2.0)
        )

        def going(v: Any) -> Any:
            return mb.squeeze(x=mb.less(x=v, y=100.0), axes=[0])

        return mb.while_loop(_cond=going, _body=lambda v: mb.mul(x=v, y=3.0), loop_vars=(branch,))

    value = start + 1 if start < 5 else start * 2
    while value < 100:
        value *= 3
    check(tmp_path, build, [x], [[value]])


# ---------------------------------------------------------------- precision


def test_fp16_rounds_every_result(tmp_path: Path) -> None:
    """1 + 2^-12 is 1 in fp16, so that taking 1 away again leaves nothing."""
    x = np.full((4,), 2.0**-12, np.float32)

    def build(x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float32(1)), y=np.float32(0.5))

    (fp32,) = mil_programs.run(tmp_path / "a.mlpackage", build, [x])
    (fp16,) = mil_programs.run(tmp_path / "b.mlpackage", build, [x], fp16=True)
    np.testing.assert_array_equal(fp32, np.full(4, 0.5 + 2.0**-12, np.float32))
    np.testing.assert_array_equal(fp16, np.full(4, 0.5, np.float32))


def test_fp16_overflows(tmp_path: Path) -> None:
    x = np.full((2,), 300.0, np.float32)
    (got,) = mil_programs.run(
        tmp_path / "m.mlpackage", lambda x: mb.sqrt(x=mb.mul(x=x, y=x)), [x], fp16=True
    )
    assert np.isinf(got).all()


def test_quantize_and_dequantize(tmp_path: Path) -> None:
    x = random(2, 3, 4)
    scale = np.array([0.1, 0.02, 0.5], np.float32)
    zero = np.array([3, -5, 0], np.int8)

    def build(x: Any) -> Any:
        q = mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="int8")
        return mb.dequantize(input=q, scale=scale, zero_point=zero, axis=1)

    s, z = scale[None, :, None], zero[None, :, None].astype(np.float32)
    want = (np.clip(np.round(x / s) + z, -128, 127) - z) * s
    check(tmp_path, build, [x], want, "iOS17")
