"""jaxfp4.report: the numbers, the table, the dict and the picture."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf

nnx = pytest.importorskip("flax.nnx")
nn = pytest.importorskip("flax.linen")

QAT = jf.recipes.qat(jf.nvfp4)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)


def rows(report):
    return {row["layer"]: row for row in report.to_dict()["layers"]}


def sqnr(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum())


def test_a_prepared_and_a_converted_model():
    net = Net(nnx.Rngs(0))
    kernel = net.conv.kernel[...]
    plain = rows(jf.report(net))
    assert plain["conv"]["format"] == "float32"
    assert plain["conv"]["sqnr_db"] is None
    jf.nnx.prepare(net, QAT, skip=["head"])
    before = rows(jf.report(net))
    jf.nnx.convert(net)
    after = rows(jf.report(net))
    assert before == after
    row = after["conv"]
    assert row["format"] == "nvfp4"
    assert row["shape"] == [3, 3, 16, 32]
    assert row["nbytes"] == 4608 // 2 + 4608 // 16 + 4
    assert row["bits"] == pytest.approx(4.5, abs=0.01)
    matrix = kernel.reshape(144, 32).T
    assert row["sqnr_db"] == pytest.approx(sqnr(matrix, jf.fake_quantize(matrix, jf.nvfp4)), 1e-4)
    assert after["head"]["format"] == "float32"
    assert after["norm/scale"]["nbytes"] == 128
    total = jf.report(net).to_dict()["total"]
    assert total["nbytes"] == sum(row["nbytes"] for row in after.values())
    assert total["float32_nbytes"] == sum(
        x.nbytes for x in jax.tree.leaves(nnx.state(Net(nnx.Rngs(0))))
    )
    assert total["ratio_to_float32"] == pytest.approx(total["float32_nbytes"] / total["nbytes"])
    assert total["ratio_to_bfloat16"] == pytest.approx(total["ratio_to_float32"] / 2)


def test_a_loaded_model_does_not_know_its_noise():
    net, fresh = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
    jf.nnx.quantize(net, QAT)
    jf.nnx.prepare(fresh, QAT)
    jf.nnx.load(fresh, jf.nnx.state(net))
    assert rows(jf.report(fresh))["conv"]["sqnr_db"] is None
    line = next(x for x in str(jf.report(fresh)).splitlines() if x.startswith("conv"))
    assert line.split()[-1] == "-"


def test_a_stack():
    make = nnx.split_rngs(splits=3)(nnx.vmap(lambda r: nnx.Linear(32, 16, rngs=r)))
    stack = make(nnx.Rngs(0))
    jf.nnx.prepare(stack, QAT)
    before = rows(jf.report(stack))
    jf.nnx.convert(stack)
    assert rows(jf.report(stack)) == before
    assert before[""]["shape"] == [3, 32, 16]
    assert before[""]["nbytes"] == 3 * (32 * 16 // 2 + 32 + 4)


def test_linen():
    model, x = nn.Sequential([nn.Dense(32), nn.Dense(10)]), jnp.ones((2, 48))
    qmodel = jf.linen.prepare(model, QAT, skip="layers_1")
    params = qmodel.init(jax.random.key(0), x)["params"]
    before = rows(jf.report(qmodel, params))
    packed = jf.linen.convert(qmodel, params)
    after = rows(jf.report(qmodel, {"params": packed}))
    assert before == after
    assert after["layers_0"]["sqnr_db"] > 15
    tree = rows(jf.report(packed, original=params))
    assert tree["layers_0/kernel"]["sqnr_db"] == pytest.approx(after["layers_0"]["sqnr_db"], 1e-4)
    assert rows(jf.report(packed))["layers_0/kernel"]["sqnr_db"] is None
    assert rows(jf.report(packed))["layers_1/kernel"]["format"] == "float32"
    with pytest.raises(jf.LayerError, match="give its params"):
        jf.report(model)
    with pytest.raises(jf.LayerError, match="give report its params"):
        jf.report(qmodel)


def test_table(capsys):
    packed = {"w": jf.quantize(jnp.ones((64, 32)), jf.mxfp4), "b": jnp.zeros(32, jnp.bfloat16)}
    report = jf.report(packed)
    report.print()
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    lines = printed.splitlines()
    assert lines[0].split() == ["layer", "format", "shape", "bits", "MB", "SQNR", "dB"]
    assert any(line.split() == ["w", "mxfp4", "64x32", "4.3", "0.0011", "-"] for line in lines)
    assert any(line.split()[:3] == ["b", "bfloat16", "32"] for line in lines)
    assert lines[-1].startswith("as bfloat16")
    json.dumps(report.to_dict())


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    net = Net(nnx.Rngs(0))
    jf.nnx.quantize(net, QAT)
    jf.report(net).plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_plot_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"jaxfp4\[plot\]"):
        jf.report({"w": jnp.ones(3)}).plot(tmp_path / "report.png")
