"""Every layer that jaxfp4.nnx takes: trained and converted, it gives the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import relative_error
from flax import nnx

import jaxfp4 as jf

QAT = jf.recipes.qat(jf.nvfp4)


@nnx.jit
def run(model, *args):
    return model(*args)


def same(got, want):
    """Equal bits; NumPy does not know NaN of bfloat16."""
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(jnp.float32))


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def causal_attention(rngs):
    return nnx.MultiHeadAttention(num_heads=2, in_features=32, decode=False, rngs=rngs)


MASK = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 16, 8)), jnp.float32)

LAYERS = {
    "Linear": (lambda r: nnx.Linear(48, 24, rngs=r), (5, 48)),
    "Linear 50": (lambda r: nnx.Linear(50, 10, rngs=r), (2, 3, 50)),
    "Linear below a block": (lambda r: nnx.Linear(7, 10, use_bias=False, rngs=r), (4, 7)),
    "Linear batch is features": (lambda r: nnx.Linear(32, 32, rngs=r), (32, 32)),
    "Linear bf16": (lambda r: nnx.Linear(32, 16, dtype=jnp.bfloat16, rngs=r), (4, 32)),
    "Linear typed": (
        lambda r: nnx.Linear(
            32, 16, dtype=jnp.bfloat16, preferred_element_type=jnp.float32, rngs=r
        ),
        (4, 32),
    ),
    "LinearGeneral": (
        lambda r: nnx.LinearGeneral((4, 8), (3, 5), axis=(-2, -1), rngs=r),
        (2, 6, 4, 8),
    ),
    "LinearGeneral batch": (
        lambda r: nnx.LinearGeneral((20,), (5,), axis=(2,), batch_axis={0: 3}, rngs=r),
        (3, 6, 20),
    ),
    "Conv 2d": (lambda r: nnx.Conv(3, 8, (3, 3), strides=2, rngs=r), (2, 8, 8, 3)),
    "Conv groups": (
        lambda r: nnx.Conv(8, 4, (2, 2), feature_group_count=2, padding="VALID", rngs=r),
        (2, 5, 5, 8),
    ),
    "Conv dilated": (lambda r: nnx.Conv(16, 8, (3,), kernel_dilation=2, rngs=r), (2, 9, 16)),
    "Conv masked": (lambda r: nnx.Conv(16, 8, (3,), mask=MASK, rngs=r), (2, 9, 16)),
    "Einsum": (lambda r: nnx.Einsum("...d,dhk->...hk", (32, 2, 5), (2, 5), rngs=r), (2, 3, 32)),
    "Einsum batch": (lambda r: nnx.Einsum("bed,edf->bef", (3, 20, 8), rngs=r), (4, 3, 20)),
    "MultiHeadAttention": (causal_attention, (2, 5, 32)),
    "RNN": (lambda r: nnx.RNN(nnx.GRUCell(16, 24, rngs=r)), (2, 4, 16)),
}


def kernels(model):
    return jax.tree.leaves(
        nnx.to_pure_dict(nnx.state(model, jf.nnx.PackedParam)),
        is_leaf=lambda x: isinstance(x, jf.ScaledArray),
    )


@pytest.mark.parametrize("name", LAYERS)
def test_converted_gives_the_bits_of_training(name):
    make, shape = LAYERS[name]
    model, x = make(nnx.Rngs(0)), normal(*shape)
    plain = model(x)
    report = jf.nnx.prepare(model, QAT)
    assert report.matched
    assert not report.skipped
    trained, trained_jit = model(x), run(model, x)
    assert trained.dtype == plain.dtype
    assert 0.005 < relative_error(trained, plain) < 0.5, "quantized, and not by much"
    floats = len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    jf.nnx.convert(model)
    np.testing.assert_array_equal(model(x), trained)
    np.testing.assert_array_equal(run(model, x), trained_jit)
    packed = kernels(model)
    assert len(packed) == len(report.matched)
    assert all(isinstance(q, jf.ScaledArray) for q in packed)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == floats - len(packed)


@pytest.mark.parametrize(
    "recipe",
    [
        jf.recipes.weight_only(jf.mxfp6_e2m3),
        jf.recipes.qat(jf.fp8_e4m3),
        jf.recipes.qat(jf.Quantizer(jf.nvfp4, block_shape=(16, 16))),
        jf.recipes.qat(jf.Quantizer(jf.nvfp4, rounding="stochastic")),
        jf.recipes.qat(jf.Quantizer(jf.nvfp4, hadamard=16)),
        jf.recipes.qat(jf.Quantizer(jf.nvfp4, global_scale=jnp.float32(0.001))),
    ],
    ids=repr,
)
def test_recipes(recipe):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(20, 24, rngs=rngs)
            self.attn = nnx.LinearGeneral(24, (3, 8), rngs=rngs)
            self.conv = nnx.Conv(24, 24, (2,), rngs=rngs)

        def __call__(self, ids):
            y = self.attn(self.embed(ids))
            return self.embed.attend(self.conv(y.reshape(*ids.shape, 24)))

    model, ids = Model(nnx.Rngs(0)), jnp.arange(12).reshape(2, 6)
    jf.nnx.prepare(model, recipe)
    trained = run(model, ids)
    jf.nnx.convert(model)
    np.testing.assert_array_equal(run(model, ids), trained)


# ------------------------------------------------------------------ Embed


@pytest.mark.parametrize("block_shape", [(1, 16), (16, 16)])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_embed(block_shape, dtype):
    embed = nnx.Embed(40, 24, dtype=dtype, rngs=nnx.Rngs(0))
    table = embed.embedding[...].astype(dtype or jnp.float32)
    quantizer = jf.Quantizer(jf.nvfp4, block_shape=block_shape)
    jf.nnx.prepare(embed, jf.recipes.weight_only(quantizer))
    ids = jnp.array([[0, 39, -1], [17, 40, -41]])
    trained, logits = embed(ids), embed.attend(normal(3, 24))
    same(trained, jnp.take(jf.fake_quantize(table, quantizer), ids, axis=0))
    assert bool(jnp.isnan(trained[1, 1:]).all())
    jf.nnx.convert(embed)
    same(embed(ids), trained)
    same(run(embed, ids), trained)
    same(embed.attend(normal(3, 24)), logits)
    assert isinstance(embed, nnx.Embed)
    with pytest.raises(ValueError, match="integer"):
        embed(normal(3))


def test_embed_decodes_only_the_rows_asked_for():
    embed = nnx.Embed(4096, 64, rngs=nnx.Rngs(0))
    jf.nnx.quantize(embed, jf.recipes.weight_only(jf.mxfp4))
    compiled = run.lower(embed, jnp.arange(4)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 64


def test_embed_of_one_entry():
    embed = nnx.Embed(1, 16, rngs=nnx.Rngs(0))
    jf.nnx.prepare(embed, QAT)
    trained = embed(jnp.array([0, 5]))
    np.testing.assert_array_equal(jf.nnx.convert(embed)(jnp.array([0, 5])), trained)
    assert np.isfinite(trained).all()


def test_gradient_of_embed_is_that_of_the_float_table():
    plain, embed = (nnx.Embed(10, 16, rngs=nnx.Rngs(0)) for _ in range(2))
    jf.nnx.prepare(embed, QAT)
    ids, weight = jnp.array([1, 3, 3]), normal(3, 16)
    loss = lambda m: (m(ids) * weight).sum()  # noqa: E731
    got, want = nnx.grad(loss)(embed), nnx.grad(loss)(plain)
    np.testing.assert_array_equal(got["embedding"][...], want["embedding"][...])


# ------------------------------------------------------------------ gradients


def test_gradients_are_those_of_the_quantized_product():
    layer, x = nnx.Linear(32, 8, rngs=nnx.Rngs(0)), normal(4, 32)
    jf.nnx.prepare(layer, QAT)
    ct = normal(4, 8, seed=1)
    grads, dx = nnx.grad(lambda m, x: (m(x) * ct).sum(), argnums=(0, 1))(layer, x)
    kernel = layer.kernel[...]
    xq, wq = jf.fake_quantize(x, jf.nvfp4), jf.fake_quantize(kernel, jf.nvfp4, axis=0)
    np.testing.assert_allclose(grads["kernel"][...], xq.T @ ct, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, ct @ wq.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads["bias"][...], ct.sum(0), rtol=1e-5)


# ------------------------------------------------------------------ stacks


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(24, 24, rngs=rngs)
        self.mix = nnx.LinearGeneral(24, (2, 12), rngs=rngs)

    def __call__(self, x):
        return x + self.mix(nnx.relu(self.linear(x))).reshape(x.shape)


class Stack(nnx.Module):
    def __init__(self, rngs, depth=3):
        make = nnx.split_rngs(splits=depth)(nnx.vmap(Block, in_axes=0, out_axes=0))
        self.blocks = make(rngs)

    def __call__(self, x):
        scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(x, self.blocks)


def test_each_layer_of_a_stack_has_its_own_scale():
    stack, x = Stack(nnx.Rngs(0)), normal(5, 24)
    kernel = stack.blocks.linear.kernel
    kernel[...] = kernel[...] * jnp.array([1.0, 1e-3, 1e3])[:, None, None]
    jf.nnx.prepare(stack, QAT)
    trained = run(stack, x)
    singles = [kernel[i] for i in range(3)]
    jf.nnx.convert(stack)
    np.testing.assert_array_equal(run(stack, x), trained)
    packed = stack.blocks.linear.kernel[...]
    assert packed.shape == (3, 24, 24)
    assert packed.global_scale.shape == (3,)
    for i, single in enumerate(singles):
        alone = jf.quantize(single, jf.nvfp4, axis=-2)
        for name in ("data", "scale", "global_scale"):
            np.testing.assert_array_equal(getattr(packed[i], name), getattr(alone, name))


def test_a_stack_is_calibrated_layer_by_layer():
    stack, x = Stack(nnx.Rngs(0)), normal(5, 24)
    before = run(stack, x)
    with jf.nnx.calibrate(stack) as stats:
        np.testing.assert_array_equal(run(stack, x), before)
    assert stats["blocks/linear"].shape == (3,)
    assert stats["blocks/linear"][0] == jnp.abs(x).max()
    jf.nnx.quantize(stack, QAT, stats=stats)
    assert stack.blocks.linear.dot_general.scale.shape == (3,)
    assert np.isfinite(run(stack, x)).all()


def test_a_stack_along_another_axis_is_an_error():
    make = nnx.split_rngs(splits=3)(nnx.vmap(Block, in_axes=0, out_axes=1))
    blocks = make(nnx.Rngs(0))
    jf.nnx.prepare(blocks, QAT)
    with pytest.raises(jf.LayerError, match="leading axes"):
        jf.nnx.convert(blocks)
