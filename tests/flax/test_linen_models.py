"""jaxfp4.linen: prepared models train with stock loops and, converted, give the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arrays import relative_error
from flax import linen as nn
from jax import lax

import jaxfp4 as jf
from jaxfp4 import native

QAT = jf.recipes.qat(jf.nvfp4)
KEY = jax.random.key(0)
MASK = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 16, 8)), jnp.float32)

LAYERS = {
    "Dense 50": (nn.Dense(10), (2, 3, 50)),
    "Dense below a block": (nn.Dense(10, use_bias=False), (4, 7)),
    "Dense batch is features": (nn.Dense(32), (32, 32)),
    "Dense bf16": (nn.Dense(16, dtype=jnp.bfloat16), (4, 32)),
    "DenseGeneral": (nn.DenseGeneral((3, 5), axis=(-2, -1)), (2, 6, 4, 8)),
    "DenseGeneral batch": (nn.DenseGeneral(5, axis=2, batch_dims=(0,)), (3, 6, 20)),
    "Conv groups": (nn.Conv(4, (2, 2), feature_group_count=2, padding="VALID"), (2, 5, 5, 8)),
    "Conv masked": (nn.Conv(8, 3, mask=MASK), (2, 9, 16)),
    "Einsum": (nn.Einsum((32, 2, 5), "...d,dhk->...hk"), (2, 3, 32)),
    "Attention": (nn.MultiHeadDotProductAttention(num_heads=2), (2, 5, 32)),
    "RNN": (nn.RNN(nn.SimpleCell(24)), (2, 4, 16)),
    "OptimizedLSTM": (nn.RNN(nn.OptimizedLSTMCell(24)), (2, 4, 16)),
    "remat": (nn.remat(nn.Dense)(8), (4, 32)),
    "partitioned": (
        nn.Dense(8, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "x"))),
        (4, 32),
    ),
}


def inputs(*shape, seed=1, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def scaled_leaves(tree):
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, jf.ScaledArray))
    return [x for x in leaves if isinstance(x, jf.ScaledArray)]


@pytest.mark.parametrize("name", LAYERS)
def test_converted_gives_the_bits_of_training(name):
    module, shape = LAYERS[name]
    x = inputs(*shape)
    qmodel = jf.linen.prepare(module, QAT)
    variables = module.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, qmodel.init(KEY, x), variables)
    plain, trained = module.apply(variables, x), qmodel.apply(variables, x)
    apply = jax.jit(qmodel.apply)
    trained_jit = apply(variables, x)
    assert trained.dtype == plain.dtype
    assert 0.005 < relative_error(trained, plain) < 0.5, "quantized, and not by much"
    packed = jf.linen.convert(qmodel, variables)
    assert len(scaled_leaves(packed)) == len(qmodel.report().matched) > 0
    np.testing.assert_array_equal(qmodel.apply(packed, x), trained)
    np.testing.assert_array_equal(apply(packed, x), trained_jit)
    np.testing.assert_array_equal(module.apply(variables, x), plain)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(24)(nn.relu(nn.Dense(20)(x))), None


class Model(nn.Module):
    # The first argument has an unusual name, and one product is nobody's layer.
    def setup(this):
        this.embed = nn.Embed(50, 24)
        stack = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        this.blocks = stack()
        this.head = nn.Dense(10)

    def __call__(this, ids):
        x, _ = this.blocks(this.embed(ids), None)
        return this.head(x @ jnp.ones((24, 24)) / 24) + this.embed.attend(x)[..., :10]


IDS = jnp.arange(48).reshape(8, 6)


def test_a_stock_loop_trains_and_serves_the_same_logits():
    model = Model()
    qmodel = jf.linen.prepare(model, QAT, skip=["head"])
    params = qmodel.init(KEY, IDS)["params"]
    labels = IDS % 10
    tx = optax.adam(1e-2)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        def loss_of(params):
            logits = qmodel.apply({"params": params}, IDS)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(15):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    logits = jax.jit(qmodel.apply)({"params": params}, IDS)
    packed = jf.linen.convert(qmodel, params)
    served = jf.linen.prepare(Model(), QAT, skip=["head"])  # as after a restart
    np.testing.assert_array_equal(jax.jit(served.apply)({"params": packed}, IDS), logits)
    stack = packed["blocks"]["Dense_0"]["kernel"]
    assert stack.shape == (3, 20, 24)
    assert stack.global_scale.shape == (3,)
    alone = jf.quantize(params["blocks"]["Dense_0"]["kernel"][1], jf.nvfp4, axis=-2)
    np.testing.assert_array_equal(stack[1].data, alone.data)
    assert packed["embed"]["embedding"].axis == -1
    assert isinstance(packed["head"]["kernel"], jax.Array)


def test_the_plain_model_stays_plain():
    dense, x = nn.Dense(32), inputs(32, 32)
    variables = dense.init(KEY, x)
    before = dense.apply(variables, x)
    qmodel = jf.linen.prepare(dense, QAT)
    quantized = qmodel.apply(variables, x)
    np.testing.assert_array_equal(dense.apply(variables, x), before)
    np.testing.assert_array_equal(qmodel.apply(variables, x), quantized)
    with qmodel.intercept():
        np.testing.assert_array_equal(dense.apply(variables, x), quantized)
    assert not np.array_equal(before, quantized)


def test_no_float_copy_of_a_packed_weight():
    if not any("scaled_dot" in target for target in native.targets("cpu")):
        pytest.skip("the reference decodes the weight")
    x = jnp.ones((1, 1024))
    qmodel = jf.linen.prepare(nn.Dense(1024), jf.recipes.weight_only(jf.nvfp4))
    packed = jf.linen.convert(qmodel, qmodel.init(KEY, x))
    compiled = jax.jit(qmodel.apply).lower(packed, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 1024 * 4 / 8


# ------------------------------------------------------------------ rules


def test_rules_and_their_report():
    rules = {"blocks/*": jf.recipes.weight_only(jf.mxfp4), "head": None, "**": QAT}
    qmodel = jf.linen.prepare(Model(), rules)
    jax.eval_shape(qmodel.init, KEY, IDS)
    report = qmodel.report()
    assert report.matched == {
        "embed": QAT,
        "blocks/Dense_0": rules["blocks/*"],
        "blocks/Dense_1": rules["blocks/*"],
    }
    assert report.skipped == {"head": "rule 'head' says None"}


def test_a_glob_that_matches_nothing():
    with pytest.raises(jf.LayerError, match=r"'haed'.*'embed'"):
        jf.linen.prepare(Model(), QAT, skip=["haed"]).init(KEY, IDS)
    lax_model = jf.linen.prepare(Model(), QAT, skip=["haed"], strict=False)
    jax.eval_shape(lax_model.init, KEY, IDS)
    assert lax_model.report().unmatched == ("haed",)


def test_layers_that_cannot_be_taken_are_reported():
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, dot_general=lambda *a, **k: lax.dot_general(*a, **k), name="own")(x)
            return nn.ConvTranspose(4, (3,), name="up")(nn.Dense(8, name="dense")(x))

    qmodel = jf.linen.prepare(Other(), QAT)
    jax.eval_shape(qmodel.init, KEY, jnp.ones((1, 4, 8)))
    report = qmodel.report()
    assert list(report.matched) == ["dense"]
    assert report.skipped == {
        "own": "has a dot_general of its own",
        "up": "ConvTranspose publishes no hook",
    }


def test_misuse():
    x = inputs(4, 32)
    with pytest.raises(jf.LayerError, match=r"recipes\.qat"):
        jf.linen.prepare(nn.Dense(8), jf.nvfp4)
    params = nn.Dense(8).init(KEY, x)["params"]
    fresh = jf.linen.prepare(nn.Dense(8), QAT)
    with pytest.raises(jf.LayerError, match="the inputs of a call"):
        jf.linen.convert(fresh, params)
    packed = jf.linen.convert(fresh, params, x)
    with pytest.raises(jf.LayerError, match="no rule gives"):
        jf.linen.prepare(nn.Dense(8), {"**": None}).apply({"params": packed}, x)
    with pytest.raises(jf.LayerError, match="nothing at 'kernel'"):
        jf.linen.convert(fresh, {"weight": params["kernel"]})
    assert jf.linen.convert(fresh, packed)["kernel"].data is packed["kernel"].data


def test_embed():
    embed, ids = nn.Embed(40, 24, dtype=jnp.bfloat16), jnp.array([[0, 39, -1], [17, 40, -41]])
    qmodel = jf.linen.prepare(embed, jf.recipes.weight_only(jf.nvfp4))
    variables = qmodel.init(KEY, ids)
    table = variables["params"]["embedding"].astype(jnp.bfloat16)
    trained = qmodel.apply(variables, ids).astype(jnp.float32)
    want = jnp.take(jf.fake_quantize(table, jf.nvfp4), ids, axis=0).astype(jnp.float32)
    np.testing.assert_array_equal(trained, want)
    packed = jf.linen.convert(qmodel, variables)
    np.testing.assert_array_equal(qmodel.apply(packed, ids).astype(jnp.float32), trained)
    query = inputs(3, 24)
    np.testing.assert_array_equal(
        *(qmodel.apply(v, query, method="attend").astype(jnp.float32) for v in (variables, packed))
    )


# ------------------------------------------------------------------ calibration


def test_calibration_and_static_scales():
    model = Model()
    variables = model.init(KEY, IDS)
    plain = model.apply(variables, IDS)
    with jf.linen.calibrate(model) as stats:
        np.testing.assert_array_equal(model.apply(variables, IDS), plain)
        jax.jit(model.apply)(variables, IDS)
    embedded = jnp.take(variables["params"]["embed"]["embedding"], IDS, axis=0)
    assert stats["blocks/Dense_0"] >= float(jnp.abs(embedded).max())
    assert stats.batches("head") == 2
    assert stats.batches("blocks/Dense_0") == 6
    assert "embed" not in stats
    qmodel, packed = jf.linen.quantize(model, variables, QAT, skip="blocks", stats=stats)
    assert list(qmodel.scales) == ["head"]
    assert qmodel.scales["head"] == pytest.approx(stats["head"] / 2688)
    served = qmodel.apply(packed, IDS)
    assert relative_error(served, plain) < 0.3


def test_static_scales_saturate():
    dense, x = nn.Dense(16, use_bias=False), inputs(8, 32)
    variables = dense.init(KEY, x)
    with jf.linen.calibrate(dense) as stats:
        dense.apply(variables, x)
    static, packed = jf.linen.quantize(dense, variables, QAT, stats=stats)
    dynamic, _ = jf.linen.quantize(dense, variables, QAT, x)
    np.testing.assert_allclose(
        static.apply(packed, x), dynamic.apply(packed, x), rtol=0.1, atol=0.1
    )
    assert not np.allclose(static.apply(packed, 20 * x), dynamic.apply(packed, 20 * x), rtol=0.2)


def test_calibration_errors():
    dense, x = nn.Dense(8), inputs(4, 32)
    apply, variables = jax.jit(dense.apply), dense.init(KEY, x)
    apply(variables, x)
    stale = pytest.raises(jf.LayerError, match=r"jax\.jit compiled before")
    with stale, jf.linen.calibrate(dense):
        apply(variables, x)
    no_module = pytest.raises(jf.LayerError, match="takes a Linen module")
    with no_module, jf.linen.calibrate(dense.apply):
        pass
    with pytest.raises(jf.LayerError, match="no entry"):
        jf.linen.quantize(dense, variables, QAT, x, stats={"other": 1.0})


def test_calibration_of_a_prepared_model():
    dense, x = nn.Dense(8), inputs(4, 32)
    qmodel = jf.linen.prepare(dense, QAT)
    variables = qmodel.init(KEY, x)
    trained = qmodel.apply(variables, x)
    with jf.linen.calibrate(qmodel) as stats:
        np.testing.assert_array_equal(qmodel.apply(variables, x), trained)
    assert stats[""] == jnp.abs(x).max()
