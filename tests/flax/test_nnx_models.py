"""jaxfp4.nnx on whole models: stock training loops, copies, rules, saving, calibration."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arrays import relative_error
from flax import nnx
from jax import lax

import jaxfp4 as jf
from jaxfp4 import native

QAT = jf.recipes.qat(jf.nvfp4)


class MLP(nnx.Module):
    # The first argument has an unusual name, and one product is nobody's layer.
    def __init__(this, rngs):
        this.layers = nnx.List([nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 50, rngs=rngs)])
        this.dropout = nnx.Dropout(0.1, rngs=rngs)
        this.mixing = nnx.Param(jax.random.normal(rngs.params(), (50, 64)) / 8)
        this.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(this, x):
        for layer in this.layers:
            x = this.dropout(nnx.relu(layer(x)))
        return this.head(x @ this.mixing)


@nnx.jit
def run(model, x):
    return model(x)


def inputs(n=64, scale=1.0, seed=1):
    return scale * jax.random.normal(jax.random.key(seed), (n, 64))


def model(seed=0):
    made = MLP(nnx.Rngs(seed))
    made.eval()
    return made


# ------------------------------------------------------------------ training


def test_a_stock_loop_trains_and_serves_the_same_logits():
    net, x = model(), inputs()  # 64 examples of 64 features
    labels = jax.random.randint(jax.random.key(2), (64,), 0, 10)
    jf.nnx.prepare(net, QAT)
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss_of(net):
            return optax.softmax_cross_entropy_with_integer_labels(net(x), labels).mean()

        loss, grads = nnx.value_and_grad(loss_of)(net)
        optimizer.update(net, grads)
        return loss

    losses = [float(step(net, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    logits = run(net, x)
    jf.nnx.convert(net)
    np.testing.assert_array_equal(run(net, x), logits)
    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)  # packed kernels are no Param
    kernel = net.head.kernel[...].data
    step(net, optimizer)
    np.testing.assert_array_equal(net.head.kernel[...].data, kernel)


@pytest.mark.parametrize(("weights", "activations"), [(1e-3, 1.0), (1.0, 1e4), (1e-3, 1e4)])
def test_small_weights_and_large_activations(weights, activations):
    layer = nnx.Linear(256, 64, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = weights * jax.random.normal(jax.random.key(0), (256, 64))
    x = activations * jax.random.normal(jax.random.key(1), (32, 256))
    exact = layer(x)
    jf.nnx.quantize(layer, QAT)
    assert relative_error(layer(x), exact) < 0.2


# ------------------------------------------------------------------ isolation


@pytest.mark.parametrize("clone", [nnx.clone, copy.deepcopy], ids=["clone", "deepcopy"])
def test_a_copy_is_a_copy(clone):
    plain, x = model(), inputs()
    before = run(plain, x)
    quantized = clone(plain)
    jf.nnx.prepare(quantized, QAT)
    trained = run(quantized, x)
    np.testing.assert_array_equal(run(plain, x), before)
    jf.nnx.convert(quantized)
    np.testing.assert_array_equal(run(plain, x), before)
    plain.head.kernel[...] = jnp.zeros((64, 10))
    np.testing.assert_array_equal(run(quantized, x), trained)
    assert not np.array_equal(trained, before)


def test_products_outside_layers_are_left_alone():
    x = inputs()
    products = (jnp.matmul, jnp.dot, lambda a, b: lax.dot_general(a, b, (((1,), (0,)), ((), ()))))
    before = [product(x, x) for product in products]
    net = model()
    jf.nnx.prepare(net, QAT)
    run(net, x)
    for one, other in zip(before, [product(x, x) for product in products], strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_float_copy_of_a_packed_weight():
    if not any("scaled_dot" in target for target in native.targets("cpu")):
        pytest.skip("the reference decodes the weight")
    layer = nnx.Linear(1024, 1024, rngs=nnx.Rngs(0))
    jf.nnx.quantize(layer, jf.recipes.weight_only(jf.nvfp4))
    compiled = run.lower(layer, jnp.ones((1, 1024))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 1024 * 4 / 8


# ------------------------------------------------------------------ rules


def test_rules_first_match_wins():
    net = model()
    report = jf.nnx.prepare(
        net, {"layers/0": jf.recipes.weight_only(jf.mxfp4), "layers/*": QAT, "**": None}
    )
    assert list(report.matched) == ["layers/0", "layers/1"]
    assert net.layers[0].dot_general.recipe == jf.recipes.weight_only(jf.mxfp4)
    assert net.layers[1].dot_general.recipe == QAT
    assert net.head.dot_general is lax.dot_general
    assert report.skipped == {"head": "rule '**' says None"}
    assert "left alone: rule '**' says None" in str(report)


def test_only_and_skip():
    net = model()
    report = jf.nnx.prepare(net, QAT, only="layers", skip=["layers/1", "dropout"])
    assert list(report.matched) == ["layers/0"]
    assert report.skipped == {"layers/1": "skip 'layers/1'", "head": "not among only"}


@pytest.mark.parametrize(
    "options", [{"skip": ["haed"]}, {"only": ["layers/2"]}, {"recipe": {"**/dense": QAT}}]
)
def test_a_glob_that_matches_nothing(options):
    net = model()
    options = {"recipe": QAT} | options
    pattern = next(iter(options.get("skip") or options.get("only") or options["recipe"]))
    with pytest.raises(jf.LayerError, match="the layers are 'head', 'layers/0', 'layers/1'") as e:
        jf.nnx.prepare(net, **options)
    assert repr(pattern) in str(e.value)
    assert net.head.dot_general is lax.dot_general, "the model is unchanged"
    assert jf.nnx.prepare(net, **options, strict=False).unmatched == (pattern,)


def test_layers_that_cannot_be_taken_are_reported():
    class Scaled(nnx.Embed):
        def __call__(self, ids):
            return 2 * super().__call__(ids)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.ConvTranspose(4, 4, (3,), rngs=rngs)
            self.own = nnx.Linear(4, 4, dot_general=lambda *a, **k: lax.dot_general(*a), rngs=rngs)
            self.late = nnx.Einsum("ab,bc->ac", (4, 4), rngs=rngs)
            self.late.einsum_str = None
            self.embed = Scaled(4, 4, rngs=rngs)
            self.linear = nnx.Linear(4, 4, rngs=rngs)

    report = jf.nnx.prepare(Model(nnx.Rngs(0)), QAT)
    assert list(report.matched) == ["linear"]
    assert set(report.skipped) == {"up", "own", "late", "embed"}
    assert report.skipped["own"] == "has a dot_general of its own"


def test_misuse():
    with pytest.raises(jf.LayerError, match=r"recipes\.qat"):
        jf.nnx.prepare(model(), jf.nvfp4)
    with pytest.raises(jf.LayerError, match="call prepare first"):
        jf.nnx.convert(model())
    net = model()
    jf.nnx.quantize(net, QAT)
    jf.nnx.convert(net)  # nothing left to do
    with pytest.raises(jf.LayerError, match=r"'layers/0'.*packed already"):
        jf.nnx.prepare(net, QAT)
    with pytest.raises(jf.LayerError, match=r"nnx\.Module"):
        jf.nnx.prepare(lambda x: x, QAT)


def test_an_error_in_a_product_names_the_layer():
    net = model()
    jf.nnx.prepare(net, QAT)
    with pytest.raises(jf.DtypeError) as error:
        net.layers[1](jnp.ones((2, 50), jnp.complex64))
    assert any("layers/1" in note for note in getattr(error.value, "__notes__", ()))


def test_layers_that_share_a_kernel():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(32, 32, rngs=rngs)
            self.b = nnx.Linear(32, 32, rngs=rngs)
            self.b.kernel = self.a.kernel

        def __call__(self, x):
            return self.b(self.a(x))

    tied, x = Tied(nnx.Rngs(0)), inputs()[:, :32]
    jf.nnx.prepare(tied, QAT)
    trained = run(tied, x)
    jf.nnx.convert(tied)
    assert tied.a.kernel is tied.b.kernel
    np.testing.assert_array_equal(run(tied, x), trained)
    other = Tied(nnx.Rngs(0))
    jf.nnx.prepare(other, {"a": QAT, "b": jf.recipes.qat(jf.mxfp4)})
    with pytest.raises(jf.LayerError, match="'a' and 'b' share"):
        jf.nnx.convert(other)


# ------------------------------------------------------------------ state and load


def test_split_and_merge():
    net, x = model(), inputs()
    jf.nnx.quantize(net, QAT)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    again = jax.jit(lambda *state: nnx.merge(graphdef, *state)(x))(params, rest)
    np.testing.assert_array_equal(again, run(net, x))


@pytest.mark.parametrize("prepared", [True, False])
def test_state_and_load(prepared):
    recipe = QAT if prepared else jf.recipes.weight_only(jf.nvfp4)
    net, fresh, x = model(0), model(1), inputs()
    jf.nnx.quantize(net, recipe, skip="layers/1")
    tree = jf.nnx.state(net)
    assert isinstance(tree["layers"]["0"]["kernel"], jf.ScaledArray)
    assert "dropout" not in tree, "random streams are not saved"
    if prepared:
        jf.nnx.prepare(fresh, recipe, skip="layers/1")
    assert jf.nnx.load(fresh, tree) is fresh
    np.testing.assert_array_equal(run(fresh, x), run(net, x))
    jf.nnx.load(fresh, jf.nnx.state(net))  # into a packed model


def test_static_scales_are_saved():
    net, fresh, x = model(0), model(1), inputs()
    with jf.nnx.calibrate(net) as stats:
        run(net, x)
    jf.nnx.quantize(net, QAT, stats=stats)
    jf.nnx.prepare(fresh, QAT)
    jf.nnx.load(fresh, jf.nnx.state(net))
    np.testing.assert_array_equal(run(fresh, 2 * x), run(net, 2 * x))
    with pytest.raises(jf.LayerError, match=r"head/dot_general/scale.*prepared with the same"):
        jf.nnx.load(model(1), jf.nnx.state(net))


def test_load_says_what_does_not_fit():
    net = model()
    jf.nnx.quantize(net, QAT)
    tree = jf.nnx.state(net)
    wrong = {**tree, "extra": {"kernel": jnp.ones(3)}, "head": {"kernel": tree["head"]["kernel"]}}
    with pytest.raises(jf.LayerError, match=r"Missing.*head/bias.*Not in.*extra/kernel"):
        jf.nnx.load(model(), wrong)
    other = model()
    jf.nnx.prepare(other, jf.recipes.qat(jf.mxfp4))
    with pytest.raises(jf.LayerError, match=r"'head/kernel'.*differ in format"):
        jf.nnx.load(other, {**tree, "layers": jf.nnx.state(other)["layers"]})
    bad = {**tree, "head": {**tree["head"], "bias": jnp.zeros(11)}}
    with pytest.raises(jf.LayerError, match=r"'head/bias' is float32\[10\].*float32\[11\]"):
        jf.nnx.load(model(), bad)
    with pytest.raises(jf.LayerError, match="head/kernel"):
        jf.nnx.load(net, jf.nnx.state(model()))  # floats into a packed model


def test_orbax_round_trip(tmp_path):
    checkpointing = pytest.importorskip("orbax.checkpoint")
    net, x = model(), inputs()
    jf.nnx.quantize(net, QAT)
    with checkpointing.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "tree", jf.nnx.state(net))
        checkpointer.wait_until_finished()
        target = model(1)
        jf.nnx.quantize(target, QAT)
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), jf.nnx.state(target)
        )
        typed = checkpointer.restore(tmp_path / "tree", abstract)
    jf.nnx.load(target, typed)
    np.testing.assert_array_equal(run(target, x), run(net, x))
    # Without a target a ScaledArray comes back as a dict of its arrays.
    bare = jax.tree.map(
        lambda q: (
            {"data": q.data, "scale": q.scale, "global_scale": q.global_scale}
            if isinstance(q, jf.ScaledArray)
            else q
        ),
        typed,
        is_leaf=lambda q: isinstance(q, jf.ScaledArray),
    )
    prepared = model(2)
    jf.nnx.prepare(prepared, QAT)
    jf.nnx.load(prepared, bare)
    np.testing.assert_array_equal(run(prepared, x), run(net, x))
    with pytest.raises(jf.LayerError, match="prepare the model first"):
        jf.nnx.load(model(2), bare)


# ------------------------------------------------------------------ calibration


def test_calibration_records_and_leaves_no_trace():
    net, x = model(), inputs()
    before, graph = run(net, x), nnx.graphdef(net)
    with jf.nnx.calibrate(net, skip=["head"]) as stats:
        np.testing.assert_array_equal(net(x), before)
        run(net, 3 * x)
    assert nnx.graphdef(net) == graph
    assert net.head.dot_general is lax.dot_general
    assert list(stats) == ["layers/0", "layers/1"]
    assert stats["layers/0"] == pytest.approx(float(3 * jnp.abs(x).max()))
    assert stats.batches("layers/0") == 2
    assert "layers/0" in str(stats)
    with jf.nnx.calibrate(net, "mean") as stats:
        net(x), net(3 * x)
    assert stats["layers/0"] == pytest.approx(float(2 * jnp.abs(x).max()))
    with jf.nnx.calibrate(net, "percentile") as stats:
        net(x)
    assert stats["layers/0"] == pytest.approx(float(jnp.percentile(jnp.abs(x), 99.9)))


def test_static_scales_are_used():
    net, x = model(), inputs()
    with jf.nnx.calibrate(net) as stats:
        net(x)
    jf.nnx.quantize(net, QAT, stats=stats)
    layer, lhs = net.layers[0], jf.Quantizer(jf.nvfp4, global_scale=stats["layers/0"] / 2688)
    want = jf.scaled_dot(jf.quantize(10 * x, lhs), layer.kernel[...])
    np.testing.assert_allclose(layer(10 * x) - layer.bias[...], want, rtol=2e-3, atol=2e-3)
    dynamic = nnx.clone(layer)
    dynamic.dot_general.scale = None
    assert not np.allclose(dynamic(10 * x), layer(10 * x), rtol=0.1), "it saturates"


def test_calibration_errors():
    net, x = model(), inputs()
    with pytest.raises(jf.LayerError, match="no layer saw a batch"), jf.nnx.calibrate(net):
        nnx.clone(net)(x)
    with pytest.raises(jf.LayerError, match=r"nnx\.jit"), jf.nnx.calibrate(net):
        jax.jit(lambda x: net(x))(x)
    assert net.head.dot_general is lax.dot_general
    with pytest.raises(jf.LayerError, match="no entry for layer 'head'"):
        jf.nnx.quantize(net, QAT, stats={"layers/0": 1.0, "layers/1": 1.0})
    with pytest.raises(ValueError, match="observer 'max'"), jf.nnx.calibrate(net, "max"):
        pass
    assert net.head.dot_general is lax.dot_general


def test_calibration_of_a_prepared_model():
    net, x = model(), inputs()
    jf.nnx.prepare(net, QAT)
    trained = run(net, x)
    with jf.nnx.calibrate(net) as stats:
        np.testing.assert_array_equal(run(net, x), trained)
    assert stats["layers/0"] == jnp.abs(x).max()
    np.testing.assert_array_equal(run(net, x), trained)


# ------------------------------------------------------------------ other ways to run


def test_an_abstract_model_converts():
    def make():
        net = model()
        jf.nnx.prepare(net, QAT)
        return jf.nnx.convert(net)

    abstract, real = nnx.state(nnx.eval_shape(make)), nnx.state(make())
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_all_three_products_quantized():
    square = jf.Quantizer(jf.nvfp4, block_shape=(16, 16))
    noisy = jf.Quantizer(jf.nvfp4, rounding="stochastic")
    recipe = jf.Recipe(
        forward=jf.Gemm(lhs=jf.nvfp4, rhs=square),
        dgrad=jf.Gemm(lhs=noisy, rhs=square),
        wgrad=jf.Gemm(lhs=jf.nvfp4, rhs=noisy),
    )
    net, plain, x = model(), model(), inputs()
    jf.nnx.prepare(net, recipe)
    grad = nnx.jit(nnx.grad(lambda net: jnp.mean(net(x) ** 2)))
    got, want = (jax.tree.leaves(grad(m)) for m in (net, plain))
    for one, other in zip(got, want, strict=True):
        assert 0 < relative_error(one, other) < 0.7


def test_weights_in_high_precision_stay_float():
    net, x = model(), inputs()
    jf.nnx.prepare(net, jf.Recipe(forward=jf.Gemm(lhs=jf.mxfp8)))
    trained = run(net, x)
    jf.nnx.convert(net)
    assert isinstance(net.head.kernel, nnx.Param)
    np.testing.assert_array_equal(run(net, x), trained)
