"""Malformed calls of the FFI targets: each an exception that says what to do, never a crash."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfp4 import native

pytestmark = pytest.mark.skipif(
    not native.targets("cpu"), reason="the CPU kernels are not built: there is no target to call"
)

F32, BF16, U8, U32 = jnp.float32, jnp.bfloat16, jnp.uint8, jnp.uint32
E4M3, E8M0 = jnp.float8_e4m3fn, jnp.float8_e8m0fnu


def call(name, results, *operands, **attributes):
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    attributes = {k: np.int64(v) for k, v in attributes.items()}
    out = jax.ffi.ffi_call(f"jaxfp4_{name}_v1", results)(*operands, **attributes)
    return jax.block_until_ready(out)


def zeros(shape, dtype=F32):
    return jnp.zeros(shape, dtype)


QUANTIZE = dict(
    element=0, scale_type=1, scale_rule=0, arithmetic=0, rounding=0, block_rows=1, block_cols=16
)
NONE = (0,)


def quantize(
    x=(4, 32), outer=(2,), seed=NONE, index=NONE, data=(4, 16), scale=(4, 2), *, x_dtype=F32,
    outer_dtype=F32, seed_dtype=U32, data_dtype=U8, scale_dtype=E4M3,
    name="quantize_blocks", **attrs,
):  # fmt: skip
    results = [(data, data_dtype), (scale, scale_dtype)]
    if name == "fake_quantize":
        results = [(data, data_dtype)]
    return call(
        name, results, zeros(x, x_dtype), jnp.ones(outer, outer_dtype), zeros(seed, seed_dtype),
        zeros(index, U32), **(QUANTIZE | attrs),
    )  # fmt: skip


MX = dict(scale_type=2, scale_rule=4, block_cols=32, scale_dtype=E8M0, scale=(4, 1))
DOT = dict(
    lhs_element=-1, lhs_scale_type=0, lhs_block_rows=0, lhs_block_cols=0, rhs_element=0,
    rhs_scale_type=1, rhs_block_rows=1, rhs_block_cols=16, rhs_layout=0, exact=0,
)  # fmt: skip


def dot(
    lhs=(3, 32), lhs_scale=NONE, lhs_g=(), rhs=(5, 16), rhs_scale=(5, 2), rhs_g=(), out=(3, 5), *,
    lhs_dtype=F32, rhs_dtype=U8, scale_dtype=E4M3, g_dtype=F32, out_dtype=F32, scratch=(), **attrs,
):  # fmt: skip
    return call(
        "scaled_dot", [(out, out_dtype), *scratch], zeros(lhs, lhs_dtype), zeros(lhs_scale),
        zeros(lhs_g, g_dtype),
        zeros(rhs, rhs_dtype), zeros(rhs_scale, scale_dtype), zeros(rhs_g), **(DOT | attrs),
    )  # fmt: skip


def ragged(
    lhs=(3, 32), lhs_scale=NONE, lhs_g=(), rhs=(2, 5, 16), rhs_scale=(2, 5, 2), rhs_g=(),
    sizes=(2,), out=(3, 5), *, lhs_dtype=F32, lhs_scale_dtype=F32, sizes_dtype=jnp.int32,
    out_dtype=F32, **attrs,
):  # fmt: skip
    return call(
        "ragged_dot", [(out, out_dtype)], zeros(lhs, lhs_dtype), zeros(lhs_scale, lhs_scale_dtype),
        zeros(lhs_g), zeros(rhs, U8), zeros(rhs_scale, E4M3), zeros(rhs_g),
        zeros(sizes, sizes_dtype), **(DOT | attrs),
    )  # fmt: skip


TRANSPOSED = dict(
    element=0, scale_type=1, block_rows=1, block_cols=16, batch_rank=0, contracted_first=0,
    out_transposed=0,
)  # fmt: skip


def transposed(
    lhs=(3, 5), rhs=(5, 16), scale=(5, 2), g=(), out=(3, 32), *, lhs_dtype=F32, rhs_dtype=U8,
    scale_dtype=E4M3, g_dtype=F32, out_dtype=F32, **attrs,
):  # fmt: skip
    return call(
        "scaled_dot_transposed", [(out, out_dtype)], zeros(lhs, lhs_dtype), zeros(rhs, rhs_dtype),
        zeros(scale, scale_dtype), zeros(g, g_dtype), **(TRANSPOSED | attrs),
    )  # fmt: skip


def dequantize(
    data=(4, 16), scale=(4, 2), g=(), out=(4, 32), *, data_dtype=U8, scale_dtype=E4M3, g_dtype=F32,
    out_dtype=F32, element=0, scale_type=1, block_rows=1, block_cols=16,
):  # fmt: skip
    return call(
        "dequantize_blocks", [(out, out_dtype)], zeros(data, data_dtype), zeros(scale, scale_dtype),
        zeros(g, g_dtype), element=element, scale_type=scale_type, block_rows=block_rows,
        block_cols=block_cols,
    )  # fmt: skip


def hadamard(
    x=(4, 32), signs=(16,), out=(4, 32), *, dtype=F32, signs_dtype=F32, out_dtype=F32, inverse=0
):
    return call(
        "hadamard", [(out, out_dtype)], zeros(x, dtype), zeros(signs, signs_dtype), inverse=inverse
    )


def amax(x=(4, 32), out=(), *, dtype=F32, out_dtype=F32):
    return call("amax", [(out, out_dtype)], zeros(x, dtype))


BLOCKED_ROWS = dict(
    lhs=(3, 16), lhs_dtype=U8, lhs_element=0, lhs_scale_type=1, lhs_block_rows=16,
    lhs_block_cols=16, lhs_scale=(1, 2), lhs_scale_dtype=E4M3,
)  # fmt: skip

WELL_FORMED = [
    (quantize, {}),
    (quantize, MX),
    (quantize, dict(x_dtype=BF16)),
    (quantize, dict(name="fake_quantize", data=(4, 32), data_dtype=F32)),
    (quantize, dict(x=(0, 32), data=(0, 16), scale=(0, 2))),
    (quantize, dict(x=(4, 0), data=(4, 0), scale=(4, 0))),
    (dot, {}),
    (dot, dict(scratch=[((64,), U8)])),
    (dot, dict(lhs=(0, 32), out=(0, 5))),
    (dot, dict(lhs=(3, 0), rhs=(5, 0), rhs_scale=(5, 0))),
    (ragged, {}),
    (ragged, dict(lhs=(0, 32), out=(0, 5))),
    (ragged, dict(lhs=(3, 0), rhs=(2, 5, 0), rhs_scale=(2, 5, 0))),
    (ragged, dict(rhs=(0, 5, 16), rhs_scale=(0, 5, 2), sizes=(0,))),
    (ragged, dict(rhs=(2, 0, 16), rhs_scale=(2, 0, 2), out=(3, 0))),
    (ragged, dict(lhs=(4, 3, 32), sizes=(4, 2), out=(4, 3, 5))),
    (transposed, {}),
    (transposed, dict(lhs=(5, 3), contracted_first=1)),
    (transposed, dict(lhs=(5,), out=(32,))),
    (transposed, dict(out=(32, 3), out_transposed=1)),
    (transposed, dict(lhs=(0, 5), out=(0, 32))),
    (transposed, dict(lhs=(3, 0), rhs=(0, 16), scale=(0, 2))),
    (transposed, dict(lhs=(3, 5), rhs=(5, 0), scale=(5, 0), out=(3, 0))),
    (dequantize, {}),
    (dequantize, dict(data=(0, 16), scale=(0, 2), out=(0, 32))),
    (hadamard, {}),
    (hadamard, dict(x=(0, 32), out=(0, 32))),
    (amax, {}),
    (amax, dict(x=(4, 0))),
]

MALFORMED = [
    # dtypes
    (quantize, dict(x_dtype=jnp.int32)),
    (quantize, dict(x_dtype=E4M3)),
    (quantize, dict(outer_dtype=BF16)),
    (quantize, dict(data_dtype=jnp.int8)),
    (quantize, dict(scale_dtype=F32)),
    (quantize, dict(scale_dtype=E8M0)),
    (quantize, dict(MX, scale_dtype=E4M3)),
    (quantize, dict(rounding=1, seed=(4, 2), index=(2,), seed_dtype=jnp.int32)),
    (quantize, dict(name="fake_quantize", data=(4, 32), data_dtype=BF16)),
    (dot, dict(lhs_dtype=jnp.int8)),
    (dot, dict(rhs_dtype=jnp.int8)),
    (dot, dict(scale_dtype=E8M0)),
    (dot, dict(g_dtype=BF16)),
    (dot, dict(out_dtype=jnp.int32)),
    (ragged, dict(lhs_dtype=jnp.int8)),
    (ragged, dict(sizes_dtype=jnp.uint8)),
    (ragged, dict(out_dtype=jnp.int32)),
    (transposed, dict(lhs_dtype=jnp.int8)),
    (transposed, dict(rhs_dtype=jnp.int8)),
    (transposed, dict(scale_dtype=E8M0)),
    (transposed, dict(g_dtype=BF16)),
    (transposed, dict(out_dtype=jnp.int32)),
    (dequantize, dict(data_dtype=jnp.int16)),
    (dequantize, dict(scale_dtype=F32)),
    (dequantize, dict(out_dtype=jnp.float8_e5m2)),
    (hadamard, dict(signs_dtype=jnp.int32)),
    (hadamard, dict(out_dtype=BF16)),
    (amax, dict(dtype=jnp.int32)),
    (amax, dict(out_dtype=BF16)),
    # ranks and shapes
    (quantize, dict(x=(32,), data=(16,), scale=(2,))),
    (quantize, dict(outer=())),
    (quantize, dict(outer=(3,))),
    (quantize, dict(outer=(5, 2))),
    (quantize, dict(data=(4, 15))),
    (quantize, dict(data=(4, 32))),
    (quantize, dict(scale=(4, 3))),
    (quantize, dict(scale=(2,))),
    (quantize, dict(rounding=1)),
    (quantize, dict(rounding=1, seed=(4, 3), index=(2,))),
    (quantize, dict(rounding=1, seed=(4, 2), index=(5,))),
    (dot, dict(lhs=(3, 31))),
    (dot, dict(lhs=(32,), out=(5,), rhs=(2, 5, 16), rhs_scale=(2, 5, 2))),
    (dot, dict(rhs=(16,), rhs_scale=(2,))),
    (dot, dict(rhs_scale=(5, 3))),
    (dot, dict(rhs_scale=(4, 2))),
    (dot, dict(out=(3, 4))),
    (dot, dict(out=(4, 5))),
    (dot, dict(lhs_g=(7,))),
    (dot, dict(rhs_g=(7,))),
    (ragged, dict(lhs=(3, 64))),
    (ragged, dict(lhs=(32,), out=(5,))),
    (ragged, dict(rhs=(5, 16), rhs_scale=(5, 2))),
    (ragged, dict(rhs=(4, 2, 5, 16), rhs_scale=(4, 2, 5, 2))),
    (ragged, dict(lhs=(4, 3, 32), rhs=(3, 2, 5, 16), rhs_scale=(3, 2, 5, 2), out=(4, 3, 5))),
    (ragged, dict(sizes=(3,))),
    (ragged, dict(sizes=())),
    (ragged, dict(out=(3, 4))),
    (ragged, dict(rhs_scale=(2, 5, 3))),
    (ragged, dict(rhs_g=(3,))),
    (transposed, dict(lhs=(3, 4))),
    (transposed, dict(lhs=(), out=(32,))),
    (transposed, dict(lhs=(5, 3))),
    (transposed, dict(contracted_first=1)),
    (transposed, dict(lhs=(2, 3, 5), rhs=(1, 5, 16), scale=(1, 5, 2), batch_rank=1)),
    (transposed, dict(rhs=(16,), scale=(2,))),
    (transposed, dict(scale=(5, 3))),
    (transposed, dict(scale=(4, 2))),
    (transposed, dict(g=(7,))),
    (transposed, dict(out=(3, 31))),
    (transposed, dict(out=(4, 32))),
    (transposed, dict(out_transposed=1)),
    (dequantize, dict(scale=(4, 3))),
    (dequantize, dict(g=(3,))),
    (dequantize, dict(out=(4, 31))),
    (hadamard, dict(signs=(12,))),
    (hadamard, dict(signs=(64,))),
    (hadamard, dict(out=(4, 16))),
    (amax, dict(out=(3,))),
    # divisibility
    (quantize, dict(x=(4, 24), data=(4, 12), scale=(4, 2))),
    (quantize, dict(MX, x=(4, 48), data=(4, 24))),
    (dot, dict(lhs=(3, 24), rhs=(5, 12))),
    (transposed, dict(rhs=(5, 12), out=(3, 24))),
    # attributes
    (quantize, dict(element=9)),
    (quantize, dict(element=-1)),
    (quantize, dict(scale_type=3)),
    (quantize, dict(scale_rule=99)),
    (quantize, dict(scale_rule=4)),
    (quantize, dict(scale_rule=1, arithmetic=1)),
    (quantize, dict(arithmetic=5)),
    (quantize, dict(rounding=7)),
    (quantize, dict(block_cols=-16)),
    (quantize, dict(block_cols=0)),
    (quantize, dict(block_rows=-1)),
    (quantize, dict(block_cols=1 << 40)),
    (dot, dict(rhs_element=-1)),
    (dot, dict(rhs_layout=17)),
    (dot, dict(exact=2)),
    (dot, dict(scratch=[((64,), F32)])),
    (dot, dict(lhs_element=77)),
    (ragged, dict(rhs_element=-1)),
    (ragged, dict(rhs_layout=1)),
    (ragged, dict(BLOCKED_ROWS)),
    (transposed, dict(element=-1)),
    (transposed, dict(batch_rank=1)),
    (transposed, dict(batch_rank=-1)),
    (transposed, dict(contracted_first=2)),
    (transposed, dict(out_transposed=2)),
    (hadamard, dict(inverse=5)),
]


def ident(value) -> str:
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize(("target", "arguments"), WELL_FORMED, ids=ident)
def test_well_formed_calls_pass(target, arguments):
    target(**arguments)


@pytest.mark.parametrize(("target", "arguments"), MALFORMED, ids=ident)
def test_malformed_calls_raise(target, arguments):
    with pytest.raises(Exception, match=r"jaxfp4_?\w*:.*expected|INVALID_ARGUMENT") as caught:
        target(**arguments)
    assert "INVALID_ARGUMENT" in str(caught.value)


def test_missing_and_superfluous_attributes_raise():
    x, outer, none = zeros((4, 32)), jnp.ones(2), zeros((0,), U32)
    results = [((4, 16), U8), ((4, 2), E4M3)]
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        call("quantize_blocks", results, x, outer, none, none, element=0)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        call("quantize_blocks", results, x, outer, none, none, **QUANTIZE, extra=1)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        call("quantize_blocks", results, x, outer, **QUANTIZE)


def test_misaligned_inputs_are_served():
    """Views into a larger host buffer, at every offset of four bytes."""
    import jaxfp4 as jf

    base = np.random.default_rng(0).standard_normal(4 * 64 + 16).astype(np.float32)
    for offset in range(16):
        x = base[offset : offset + 256].reshape(4, 64)
        q = jax.jit(lambda x: jf.quantize(x, jf.nvfp4))(x)
        whole = jf.quantize(jnp.array(x), jf.nvfp4)
        np.testing.assert_array_equal(q.data, whole.data)
