"""quantize_state: what is packed, that steps are the inner optimizer's, and that runs repeat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxfp4 as jf
from jaxfp4.errors import LayerError
from jaxfp4.optim import leaves

SR = "stochastic24"
ADAM = dict(mu=jf.mxfp8, nu=jf.Quantizer(jf.mxfp8_e5m2, rounding=SR))


def parameters(rng) -> dict:
    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return {"dense": {"kernel": normal(64, 128), "bias": normal(128)}, "conv": normal(3, 3, 32, 32)}


def loss(params, target):
    return sum(jax.tree.leaves(jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, target)))


def step(tx, target, carry, _=None):
    params, state = carry
    value, gradients = jax.value_and_grad(loss)(params, target)
    updates, state = tx.update(gradients, state, params)
    return (optax.apply_updates(params, updates), state), value


def run(tx, params, target, steps, state=None):
    """Steps under jit and scan."""
    carry = (params, tx.init(params) if state is None else state)
    body = functools.partial(step, tx, target)
    return jax.jit(lambda c: jax.lax.scan(body, c, length=steps))(carry)


def packed(tree) -> list[jf.ScaledArray]:
    return [x for x in jax.tree.leaves(tree, is_leaf=leaves.is_packed) if leaves.is_packed(x)]


def nbytes(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def assert_same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# ------------------------------------------------------------------ what is packed


def test_large_leaves_of_the_named_fields_are_packed(rng):
    state = jf.optim.quantize_state(optax.adam(1e-3), mu=jf.nvfp4).init(parameters(rng))
    adam = state.inner_state[0]
    assert adam.mu["dense"]["kernel"].format is jf.nvfp4
    assert adam.mu["conv"].shape == (3, 3, 32, 32)
    assert adam.mu["dense"]["bias"].dtype == jnp.float32
    assert not packed(adam.nu)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((64, 128), -1), ((3, 3, 32, 64), -1), ((512, 40), -2), ((64, 8, 5), -3), ((5000,), -1)],
)
def test_blocks_lie_along_the_last_axis_that_pads_least(shape, axis):
    assert leaves.block_axis(shape, jf.Quantizer(jf.mxfp8)) == axis


def test_dtype_and_min_size():
    params = {"a": jnp.ones((8, 32), jnp.bfloat16), "b": jnp.ones(31), "c": jnp.ones((), int)}
    tx = jf.optim.quantize_state(optax.trace(0.9), trace=jf.mxfp8, min_size=32)
    trace = tx.init(params).inner_state.trace
    assert trace["a"].dtype == jnp.bfloat16
    assert len(packed(trace)) == 1


def test_memory_falls(rng):
    params = {"w": jnp.ones((256, 512))}
    whole = nbytes(optax.adam(1e-3).init(params))
    eight = nbytes(jf.optim.quantize_state(optax.adam(1e-3), **ADAM).init(params))
    tx = jf.optim.quantize_state(optax.adam(1e-3), mu=jf.nvfp4, nu=jf.mxfp8_e5m2)
    four = nbytes(tx.init(params))
    assert eight / whole == pytest.approx(8.25 / 32, rel=1e-3)
    assert four / whole == pytest.approx((4.5 + 8.25) / 64, rel=1e-3)


NESTED = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: True, p)),
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": optax.sgd(0.1)}, lambda p: jax.tree.map(lambda x: "ab"[x.ndim < 2], p)
    ),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("wrap", NESTED.values(), ids=NESTED)
def test_fields_are_found_at_any_depth(wrap, rng):
    params, target = parameters(rng), parameters(rng)
    tx = jf.optim.quantize_state(wrap(optax.adam(0.1)), **ADAM)
    (_, state), losses = run(tx, params, target, 8)
    assert len(packed(state)) == 4
    assert losses[-1] < losses[0]


def test_inject_hyperparams(rng):
    inner = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    (_, state), losses = run(
        jf.optim.quantize_state(inner, **ADAM), parameters(rng), parameters(rng), 8
    )
    assert len(packed(state)) == 4
    assert losses[-1] < losses[0]


def test_an_optimizer_may_be_wrapped_twice(rng):
    inner = jf.optim.quantize_state(optax.adam(0.1), mu=jf.mxfp8)
    tx = jf.optim.quantize_state(inner, nu=jf.mxfp8_e5m2)
    (_, state), _ = run(tx, parameters(rng), parameters(rng), 4)
    assert len(packed(state)) == 4


def test_an_unknown_field_is_named_with_those_there_are(rng):
    with pytest.raises(LayerError, match=r"no field 'momentum'; its fields are count, mu, nu"):
        jf.optim.quantize_state(optax.adam(0.1), momentum=jf.mxfp8).init(parameters(rng))
    with pytest.raises(LayerError, match="trace"):
        jf.optim.quantize_state(optax.sgd(0.1, momentum=0.9)).init(parameters(rng))


# ------------------------------------------------------------------ what a step is


@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp8, jf.fp8_e5m2], ids=str)
def test_a_step_is_dequantize_inner_quantize(format, rng):
    params, target = parameters(rng), parameters(rng)
    gradients = jax.grad(loss)(params, target)
    inner = optax.trace(0.9)
    tx = jf.optim.quantize_state(inner, trace=format)
    _, state = tx.update(gradients, tx.init(params), params)
    updates, state = tx.update(gradients, state, params)

    def rounded(tree):
        return jax.tree.map(
            lambda x: jf.fake_quantize(x, format) if x.size >= 4096 else x, tree
        )  # all leaves here have whole blocks along their last axis

    _, expected = inner.update(gradients, inner.init(params), params)
    expected = expected._replace(trace=rounded(expected.trace))
    wanted, expected = inner.update(gradients, expected, params)
    assert_same_tree(updates, wanted)
    assert_same_tree(jf.tree.dequantize(state.inner_state), rounded(expected))


def test_extra_arguments_reach_the_inner_update():
    def update(updates, state, params=None, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.chain(
        optax.trace(0.9),
        optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update),
    )
    tx = jf.optim.quantize_state(inner, trace=jf.mxfp8)
    ones = jnp.ones((64, 64))
    updates, _ = tx.update(ones, tx.init(ones), ones, factor=3.0)
    assert float(updates[0, 0]) == 3.0


CONVERGING = [
    ADAM,
    dict(mu=jf.mxfp8, nu=jf.Quantizer(jf.fp8_e5m2, rounding="stochastic")),
    dict(mu=jf.nvfp4, nu=jf.mxfp8_e5m2),
    dict(mu=jf.Quantizer(jf.nvfp4, rounding=SR, scale_rule="up")),
]


@pytest.mark.parametrize("fields", CONVERGING, ids=str)
def test_adam_converges_as_with_float_states(fields, rng):
    params, target = parameters(rng), parameters(rng)
    _, exact = run(optax.adam(0.05), params, target, 100)
    _, losses = run(jf.optim.quantize_state(optax.adam(0.05), **fields), params, target, 100)
    assert exact[-1] < 1e-2 * exact[0]
    assert losses[-1] < 2e-2 * losses[0]


# ------------------------------------------------------------------ randomness and repetition


def test_a_resumed_run_repeats_bit_for_bit(rng, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    params, target = parameters(rng), parameters(rng)
    tx = jf.optim.quantize_state(optax.adam(0.05), **ADAM)
    whole, _ = run(tx, params, target, 6)
    half, _ = run(tx, params, target, 3)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "half", half)
    rest, _ = run(tx, *restored[:1], target, 3, state=restored[1])
    assert_same_tree(rest, whole)


def test_a_loop_of_jitted_steps_equals_a_scan(rng):
    params, target = parameters(rng), parameters(rng)
    tx = jf.optim.quantize_state(optax.adam(0.05), **ADAM)
    one = jax.jit(lambda carry: step(tx, target, carry)[0], donate_argnums=0)
    carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
    for _ in range(4):
        carry = one(carry)
    scanned, _ = run(tx, params, target, 4)
    assert jax.tree.structure(carry) == jax.tree.structure(scanned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), carry[0], scanned[0])


def test_bits_depend_on_seed_step_and_leaf():
    grads = {"a": jnp.full((64, 64), 1.1), "b": jnp.full((64, 64), 1.1)}

    def traces(seed):
        quantizer = jf.Quantizer(jf.mxfp8, rounding=SR)
        tx = jf.optim.quantize_state(optax.trace(0.0), trace=quantizer, seed=seed)
        states = [tx.init(grads)]
        for _ in range(2):
            states.append(tx.update(grads, states[-1])[1])
        return [s.inner_state.trace for s in states[1:]]

    first, second = traces(0)
    draws = [first["a"], first["b"], second["a"], traces(1)[0]["a"]]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert np.mean(np.asarray(x.data) != np.asarray(y.data)) > 0.1
        assert float(jf.dequantize(x).mean()) == pytest.approx(1.1, rel=2e-3)
    assert_same_tree(traces(0)[1], second)


# ------------------------------------------------------------------ where it is used


def test_nnx_optimizer(rng):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(32, 256, rngs=rngs)
            self.head = nnx.Linear(256, 32, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.hidden(x)))

    @nnx.jit
    def train_step(model, optimizer, x):
        value, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - x) ** 2))(model)
        optimizer.update(model, gradients)
        return value

    x = jnp.asarray(rng.standard_normal((64, 32)), jnp.float32)
    model = Model(nnx.Rngs(0))
    tx = jf.optim.quantize_state(optax.adamw(3e-3), **ADAM)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses = [float(train_step(model, optimizer, x)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    moments = nnx.as_pure(optimizer.opt_state).inner_state[0]
    assert len(packed(moments)) == 4
    assert moments.mu["hidden"]["kernel"].shape == (32, 256)
    assert train_step.jitted_fn._cache_size() == 1


def test_a_packed_state_is_sharded_as_the_gradients_are(mesh_shape):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data", None))
    gradients = jax.device_put(jnp.ones((64, 128)), rows)
    tx = jf.optim.quantize_state(optax.trace(0.9), trace=jf.mxfp8)
    state = jax.device_put(tx.init(gradients), jax.NamedSharding(mesh, jax.P()))
    trace = jax.jit(tx.update)(gradients, state)[1].inner_state.trace
    assert trace.data.sharding.is_equivalent_to(rows, 2)
    assert float(jf.dequantize(trace).mean()) == 1.0


def test_tree_map_params_passes(rng):
    tx = jf.optim.quantize_state(optax.adam(0.1), mu=jf.mxfp8)
    state = tx.init(parameters(rng))
    seen = []
    optax.tree_map_params(tx, lambda x: seen.append(x) or x, state)
    assert seen
