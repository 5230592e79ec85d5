"""Converted layers hold their kernels in the order that the back end reads fastest, and only so."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxfp4 as jf
from jaxfp4 import native, orders

QAT = jf.recipes.qat(jf.nvfp4)
SERVED = orders.INTERLEAVED if native.targets("cpu") else orders.LOGICAL


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(48, 64, rngs=rngs)
        self.conv = nnx.Conv(64, 32, (3,), rngs=rngs)
        self.dense = nnx.Linear(32, 64, rngs=rngs)
        self.general = nnx.LinearGeneral((4, 16), (2, 16), axis=(-2, -1), rngs=rngs)
        self.einsum = nnx.Einsum("bsnh,nhd->bsd", (2, 16, 48), None, rngs=rngs)
        self.odd = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, ids):
        x = self.dense(self.conv(self.embed(ids)))
        x = self.general(x.reshape(*x.shape[:-1], 4, 16))
        return self.odd(self.einsum(x))


IDS = jnp.arange(12).reshape(2, 6)
run = nnx.jit(lambda model, ids: model(ids))


def layouts(model):
    return {k: v["kernel" if "kernel" in v else "embedding"] for k, v in nnx.to_pure_dict(
        nnx.state(model)).items()}  # fmt: skip


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize("recipe", [QAT, jf.recipes.weight_only(jf.mxfp4)], ids=["nvfp4", "w4"])
def test_kernels_of_products_and_no_others(recipe):
    model = Model(nnx.Rngs(0))
    jf.nnx.prepare(model, recipe)
    before = run(model, IDS)
    promised = jf.report(model).to_dict()
    logical = nnx.clone(model)
    jf.nnx.convert(model)
    with jf.use_backend("reference"):
        jf.nnx.convert(logical)
    held = {name: q.layout for name, q in layouts(model).items()}
    products = dict.fromkeys(("conv", "dense", "general", "einsum"), SERVED)
    assert held == products | {"embed": 0, "odd": 0}
    assert all(q.layout == 0 for q in layouts(logical).values())
    same(run(model, IDS), before)
    same(run(logical, IDS), before)
    assert jf.report(model).to_dict()["total"] == promised["total"]
    same(jf.nnx.state(model), jf.nnx.state(logical))
    assert all(q.layout == 0 for q in jax.tree.leaves(
        jf.nnx.state(model), is_leaf=lambda x: isinstance(x, jf.ScaledArray)
    ) if isinstance(q, jf.ScaledArray))  # fmt: skip


def test_load_takes_either_order_and_gives_the_machine_its_own():
    model = Model(nnx.Rngs(0))
    jf.nnx.quantize(model, QAT)
    expected = run(model, IDS)
    held = nnx.to_pure_dict(nnx.state(model))
    held = {k: {n: x for n, x in v.items() if not isinstance(x, dict)} for k, v in held.items()}
    for tree in (jf.nnx.state(model), held):
        for prepared in (False, True):
            fresh = Model(nnx.Rngs(1))
            jf.nnx.quantize(fresh, QAT) if prepared else jf.nnx.prepare(fresh, QAT)
            jf.nnx.load(fresh, tree)
            assert layouts(fresh)["dense"].layout == SERVED
            assert layouts(fresh)["embed"].layout == 0
            same(run(fresh, IDS), expected)
        with jf.use_backend("reference"):
            fresh = jf.nnx.load(Model(nnx.Rngs(1)), tree)
            assert layouts(fresh)["dense"].layout == 0


def test_stacks_of_layers():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return nnx.Linear(32, 32, rngs=rngs)

    layers = stack(nnx.Rngs(0))

    @nnx.jit
    def apply(layers, x):
        return nnx.scan(lambda x, layer: jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0),
                        out_axes=nnx.Carry)(x, layers)  # fmt: skip

    jf.nnx.prepare(layers, QAT)
    x = jax.random.normal(jax.random.key(1), (5, 32))
    before = apply(layers, x)
    jf.nnx.convert(layers)
    q = layers.kernel[...]
    assert q.layout == SERVED
    same(apply(layers, x), before)
    same(jf.dequantize(q[1]), jf.dequantize(q)[1])


def test_export():
    model = nnx.Linear(64, 32, rngs=nnx.Rngs(0))
    jf.nnx.quantize(model, QAT)
    graph, state = nnx.split(model)
    x = jax.random.normal(jax.random.key(1), (5, 64))
    f = jax.jit(lambda x: nnx.merge(graph, state)(x))
    exported = jax.export.export(f, disabled_checks=jf.export_checks())(x)
    same(jax.export.deserialize(exported.serialize()).call(x), f(x))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_kernels(mesh_shape, kind):
    mesh = jax.make_mesh(mesh_shape, ("dp", "tp"), axis_types=(kind,) * 2)
    x = jax.random.normal(jax.random.key(1), (8, 64))
    for features, spec, order in (
        (64, P(None, "tp"), SERVED),  # rows of codes: 32 on a device
        (48, P(None, "tp"), orders.LOGICAL),  # 24: cuts a group
        (64, P("tp", None), orders.LOGICAL),  # cuts rows
    ):
        model = nnx.Linear(64, features, use_bias=False, rngs=nnx.Rngs(0))
        jf.nnx.prepare(model, jf.recipes.weight_only(jf.nvfp4))
        before = run(model, x)
        model.kernel.set_value(jax.device_put(model.kernel[...], NamedSharding(mesh, spec)))
        with jax.set_mesh(mesh):
            jf.nnx.convert(model)
            q = model.kernel[...]
            assert q.layout == order
            assert len(q.data.sharding.device_set) == 4
            rows = q.data.sharding.shard_shape(q.data.shape)[0]
            assert rows == (features // 2 if spec[1] else features)
            y = run(model, jax.device_put(x, NamedSharding(mesh, P("dp", None))))
            saved = jf.nnx.state(model)["kernel"]
        np.testing.assert_allclose(y, before, rtol=1e-5, atol=1e-5)
        whole = nnx.Linear(64, features, use_bias=False, rngs=nnx.Rngs(0))
        jf.nnx.quantize(whole, jf.recipes.weight_only(jf.nvfp4))
        same(saved, jf.nnx.state(whole)["kernel"])


def test_uncommitted_arrays_stay_uncommitted():
    model = nnx.Linear(64, 32, use_bias=False, rngs=nnx.Rngs(0))
    jf.nnx.quantize(model, QAT)
    assert not model.kernel[...].data.committed
    elsewhere = jax.device_put(jnp.ones((2, 64)), jax.devices()[-1])
    assert model(elsewhere).devices() == {jax.devices()[-1]}


# ------------------------------------------------------------------ Linen


def test_linen():
    qmodel = jf.linen.prepare(nn.Sequential([nn.Dense(32), nn.Dense(10)]), QAT)
    x = jax.random.normal(jax.random.key(1), (5, 64))
    params = qmodel.init(jax.random.key(0), x)["params"]
    before = qmodel.apply({"params": params}, x)
    packed = jf.linen.convert(qmodel, params)
    assert packed["layers_0"]["kernel"].layout == SERVED
    assert packed["layers_1"]["kernel"].layout == orders.LOGICAL
    same(qmodel.apply({"params": packed}, x), before)
    saved = jf.linen.state({"params": packed})["params"]
    assert saved["layers_0"]["kernel"].layout == orders.LOGICAL
    same(saved["layers_0"]["kernel"], jf.quantize(params["layers_0"]["kernel"], jf.nvfp4, axis=-2))
    same(qmodel.apply({"params": saved}, x), before)
    again = jf.linen.convert(qmodel, saved)
    assert again["layers_0"]["kernel"].layout == SERVED
    same(again, packed)
    table = nn.Embed(48, 64)
    qtable = jf.linen.prepare(table, QAT)
    variables = qtable.init(jax.random.key(0), IDS)
    assert jf.linen.convert(qtable, variables)["params"]["embedding"].layout == orders.LOGICAL
