"""Golden vectors of other implementations, bit for bit."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4.formats import FORMATS, PER_CHANNEL
from jaxfp4.reference import packing

HERE = pathlib.Path(__file__).parent
FOLDERS = [HERE / "data" / "golden", HERE.parents[1] / "shared" / "golden"]
# Inputs on whose special values each library has a policy of its own.
OWN_POLICY = {"nan", "zeros", "neg_zero", "zero_rows"}
# Another choice of 4 or 6 than docs/numerics.md defines.
NOT_OURS = ("nvfp4_4over6",)
# Sums of exact ties fall on either side with the order of a transform's additions.
ORDER_DECIDES = {"ties_nvfp4", "ties_pow2"}


def quantizer_of(name: str) -> jf.Quantizer:
    format, variant = name.split(".")
    if format == "nvfp4":
        return jf.Quantizer(jf.nvfp4, arithmetic=variant)
    if format == "nvfp4_2d":
        return jf.Quantizer(jf.nvfp4, block_shape=(16, 16))
    if format.startswith("mx"):
        return jf.Quantizer(FORMATS[format], scale_rule=variant)
    block = {"fp8_tensor": None, "fp8_channel": PER_CHANNEL, "fp8_block128": (128, 128)}[format]
    return jf.Quantizer(jf.fp8_e4m3, block_shape=block)


def name_of(file: pathlib.Path) -> str:
    return f"{file.parent.parent.name}-{file.stem}"


def load(file: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def names_in(golden) -> list[str]:
    names = sorted({key.split("/")[0] for key in golden if "/" in key})
    return [name for name in names if not name.startswith((*NOT_OURS, "nvfp4_rht"))]


ROTATED = "nvfp4_rht_colwise.te"
GOLDEN = {
    f: load(f)
    for d in FOLDERS
    if d.is_dir()
    for f in sorted(d.glob("*.npz"))
    if f.stem not in OWN_POLICY
}
FILES = [f for f, golden in GOLDEN.items() if names_in(golden)]
ROTATED_FILES = [
    f
    for f, golden in GOLDEN.items()
    if f"{ROTATED}/packed" in golden and f.stem not in ORDER_DECIDES
]


@functools.cache
def quantize_by(quantizer):
    """Made once: files of one shape share what is compiled."""
    return jax.jit(lambda x: jf.quantize(x, quantizer))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_golden_vectors(reference_and_best, file):
    golden = GOLDEN[file]
    x = golden["input"]
    array = jnp.asarray(x).astype(jnp.bfloat16 if "bf16" in file.stem else jnp.float32)
    for name in names_in(golden):
        check(quantize_by(quantizer_of(name))(array), golden, name, x)


@pytest.mark.parametrize("file", ROTATED_FILES, ids=name_of)
def test_golden_vectors_of_rotated_columns(reference_and_best, file):
    golden = GOLDEN[file]
    x = golden["input"].T  # rotated, and not rounded after, in float32
    rotate = jf.Hadamard(16)
    q = jax.jit(lambda x: jf.quantize(x, jf.Quantizer(jf.nvfp4, hadamard=rotate)))(jnp.asarray(x))
    check(q, golden, ROTATED, x)


def check(q: jf.ScaledArray, golden, name: str, x) -> None:
    codes = np.asarray(packing.unpack(q.data, q.format.element))
    expected = golden[f"{name}/packed" if f"{name}/packed" in golden else f"{name}/codes"]
    expected = np.asarray(packing.unpack(jnp.asarray(expected), q.format.element))
    minus_zero = (x == 0) & np.signbit(x) & (q.format.scale.name != "e8m0")
    np.testing.assert_array_equal(codes[~minus_zero], expected[~minus_zero], err_msg=name)
    scale = np.asarray(q.scale)
    if f"{name}/scales" in golden:
        raw = golden[f"{name}/scales"]
        rows = raw.shape[0] // scale.shape[0]  # one scale for each row of a 2-D block, or for all
        np.testing.assert_array_equal(np.repeat(scale.view(np.uint8), rows, 0), raw, err_msg=name)
    else:
        np.testing.assert_array_equal(scale.reshape(-1), golden[f"{name}/scales_f32"].reshape(-1))
    np.testing.assert_allclose(q.global_scale, golden[f"{name}/global_scale"], rtol=2e-7)


def test_there_are_golden_vectors():
    assert len([f for f in FILES if f.parent == FOLDERS[0]]) == 4
    assert [f.stem for f in ROTATED_FILES if f.parent == FOLDERS[0]] == ["rotated"]
