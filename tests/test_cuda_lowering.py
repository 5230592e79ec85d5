"""What runs on a GPU, read from programs lowered for one: works on machines that have none.

``jax.export`` lowers for CUDA without CUDA. Every operation must be one call of its FFI target,
with the attributes that the kernels read, and nothing of what it stands for: no decoded weights,
no gather.
"""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4.formats import FORMATS

CODED = {"element", "scale_type", "block_rows", "block_cols"}
QUANTIZE = CODED | {"scale_rule", "arithmetic", "rounding"}
DOT = {f"{side}_{name}" for side in ("lhs", "rhs") for name in CODED} | {"rhs_layout", "exact"}
ATTRIBUTES = {
    "amax": set(),
    "quantize_blocks": QUANTIZE,
    "fake_quantize": QUANTIZE,
    "dequantize_blocks": CODED,
    "hadamard": {"inverse"},
    "scaled_dot": DOT,
    "ragged_dot": DOT,
    "scaled_dot_transposed": CODED | {"batch_rank", "contracted_first", "out_transposed"},
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def lowered(f, *args, platforms=("cuda",)) -> str:
    exported = jax.export.export(
        jax.jit(f), platforms=list(platforms), disabled_checks=jf.export_checks()
    )(*args)
    return exported.mlir_module()


def calls(text: str) -> list[tuple[str, dict[str, int]]]:
    """The custom calls of a module: (target, integer attributes)."""
    found = []
    for line in text.splitlines():
        target = re.search(r"custom_call @(\w+)", line)
        if target:
            config = re.search(r"mhlo\.backend_config = \{(.*?)\}", line)
            pairs = re.findall(r"(\w+) = (-?\d+) : i64", config[1] if config else "")
            found.append((target[1], {name: int(value) for name, value in pairs}))
    return found


def kernels(text: str) -> dict[str, dict[str, int]]:
    """The attributes of jaxfp4's calls, by operation."""
    named = re.compile(r"jaxfp4_(\w+)_v1")
    return {
        m[1]: attributes for target, attributes in calls(text) if (m := named.fullmatch(target))
    }


def programs(weights):
    """Functions of float32 [4, 64], by the operations they use; between them, all operations."""
    return {
        ("amax", "quantize_blocks"): lambda x: jf.quantize(x, jf.nvfp4),
        ("amax", "fake_quantize"): lambda x: jf.fake_quantize(x, jf.nvfp4),
        ("dequantize_blocks",): lambda x: x + jf.dequantize(weights)[:4],
        ("hadamard",): lambda x: jf.hadamard(x, 16),
        ("scaled_dot",): lambda x: jf.scaled_dot(x, weights),
        ("ragged_dot",): lambda x: jf.ragged_dot(x, EXPERTS, jnp.array([1, 0, 2])),
        ("scaled_dot_transposed",): lambda x: jax.grad(lambda x: jf.scaled_dot(x, weights).sum())(
            x
        ),
        ("amax", "quantize_blocks", "scaled_dot"): lambda x: jf.scaled_dot(
            jf.quantize(x, jf.nvfp4), weights
        ),
    }


W = jf.quantize(normal(32, 64, seed=1), jf.nvfp4)
EXPERTS = jf.quantize(normal(3, 64, 8, seed=2), jf.mxfp4, axis=-2)
PROGRAMS = programs(W)
names = pytest.mark.parametrize("operations", PROGRAMS, ids="+".join)


@names
def test_operations_are_calls(operations):
    found = kernels(lowered(PROGRAMS[operations], normal(4, 64)))
    assert set(found) == set(operations)
    for name, attributes in found.items():
        assert set(attributes) == ATTRIBUTES[name]


@names
def test_both_platforms(operations):
    text = lowered(PROGRAMS[operations], normal(4, 64), platforms=("cpu", "cuda"))
    assert set(kernels(text)) >= set(operations)


@names
def test_reference_has_no_calls(operations):
    with jf.use_backend("reference"):
        assert not kernels(lowered(PROGRAMS[operations], normal(4, 64)))


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_formats(format):
    """The attributes are the format's, and weights reach the product as they are stored."""
    weights = jf.quantize(normal(32, 128, seed=2), format)

    def f(x, weights):
        return jf.scaled_dot(x, weights)

    text = lowered(f, normal(4, 128), weights)
    (attributes,) = kernels(text).values()
    assert attributes["lhs_element"] == -1
    assert attributes["rhs_element"] == format.element.id
    assert attributes["rhs_scale_type"] == format.scale.id
    assert attributes["rhs_block_rows"] == (weights.block_shape[0] or 0)
    assert attributes["rhs_block_cols"] == (weights.block_shape[1] or 0)
    assert "gather" not in text
    assert "stablehlo.dot_general" not in text
    assert not re.search(r"tensor<32x128x(f32|bf16|f16)>", text), "weights are decoded"


def test_training_step_decodes_no_operand():
    """Both products of a backward pass take the codes of the forward one as they are."""
    recipe = jf.recipes.qat(jf.nvfp4)

    def f(x, w):
        dims = (((1,), (0,)), ((), ()))
        return jax.grad(lambda x, w: jf.scaled_dot_general(x, w, dims, recipe).sum(), (0, 1))(x, w)

    text = lowered(f, normal(48, 64), normal(64, 32))
    found = [(target, attributes) for target, attributes in calls(text) if "transposed" in target]
    dgrad, wgrad = (attributes for _, attributes in found)
    assert (dgrad["contracted_first"], dgrad["out_transposed"]) == (0, 0)
    assert (wgrad["contracted_first"], wgrad["out_transposed"]) == (1, 1)
    assert "dequantize_blocks" not in kernels(text)
    assert "stablehlo.dot_general" not in text


def test_jit_of_vmap_is_one_call():
    def f(xs):
        return jax.vmap(lambda x: jf.scaled_dot(x, W))(xs)

    text = lowered(f, normal(3, 4, 64))
    assert [target for target, _ in calls(text)] == ["jaxfp4_scaled_dot_v1"]


EXACT = ("highest", "float32", jax.lax.Precision.HIGHEST, (None, "highest"), "F32_F32_F32")


@pytest.mark.parametrize("precision", [None, "high", "default", *EXACT], ids=str)
def test_precision(precision):
    """Every way to a product says whether sums are to have float32's precision."""
    expected = int(precision in EXACT)
    recipe = jf.recipes.qat(jf.nvfp4)
    dims = (((1,), (1,)), ((), ()))
    ways = [
        lambda x: jf.scaled_dot(x, W, precision=precision),
        lambda x: jf.scaled_dot_general(x, W, dims, recipe, precision=precision),
        lambda x: jf.scaled_dot_general(x, x, dims, recipe, precision=precision),
        lambda x: jf.scaled_einsum("mk,nk->mn", x, x, recipe, precision=precision),
    ]
    for way in ways:
        assert kernels(lowered(way, normal(4, 64)))["scaled_dot"]["exact"] == expected


def test_default_precision():
    with jax.default_matmul_precision("float32"):
        text = lowered(lambda x: jf.scaled_dot(x, W), normal(4, 64))
    assert kernels(text)["scaled_dot"]["exact"] == 1


def scratch_of(f, *args, platform="cuda") -> list[int]:
    """The sizes of the bytes that calls of scaled_dot have as a second result."""
    text = lowered(f, *args, platforms=(platform,))
    line = next(x for x in text.splitlines() if "custom_call @jaxfp4_scaled_dot_v1" in x)
    return [int(n) for n in re.findall(r"tensor<(\d+)xui8>", line.rpartition("->")[2])]


PAIRS = {
    "fp8 1x128 x 128x128": (
        jf.Quantizer(jf.fp8_e4m3, block_shape=(1, 128)),
        jf.Quantizer(jf.fp8_e4m3, block_shape=(128, 128)),
        130 * 2 * 4 + 2 * 4 * 4,
    ),
    "fp8 tensors": (jf.Quantizer(jf.fp8_e4m3), jf.Quantizer(jf.fp8_e5m2), 8),
    "nvfp4": (jf.Quantizer(jf.nvfp4), jf.Quantizer(jf.nvfp4), (256 + 256) * 16),
    "mxfp8": (jf.Quantizer(jf.mxfp8), jf.Quantizer(jf.mxfp8), (256 + 256) * 8),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_scratch(pair):
    """cuBLASLt's memory and the scales in its order, on GPUs alone, if it may serve at all."""
    left, right, least = PAIRS[pair]
    w = jf.quantize(normal(192, 256, seed=3), right)

    def dot(x, **options):
        return jf.scaled_dot(jf.quantize(x, left), w, **options)

    (scratch,) = scratch_of(dot, normal(130, 256))
    assert least + (32 << 20) <= scratch < least + (33 << 20)
    assert scratch_of(lambda x: jf.scaled_dot(x, w), normal(130, 256)) == []
    assert scratch_of(lambda x: dot(x, precision="highest"), normal(130, 256)) == []
    assert scratch_of(dot, normal(64, 256)) == []
    if "scaled_dot" in kernels(lowered(dot, normal(130, 256), platforms=("cpu",))):
        assert scratch_of(dot, normal(130, 256), platform="cpu") == []


def test_no_scratch_of_unknown_size():
    w = jf.quantize(normal(192, 256, seed=3), jf.nvfp4)
    (b,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((b, 256), jnp.float32)
    assert scratch_of(lambda x: jf.scaled_dot(jf.quantize(x, jf.nvfp4), w), spec) == []
