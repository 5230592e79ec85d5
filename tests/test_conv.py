"""Convolutions: lax.conv_general_dilated of the quantized operands, for any geometry."""

import arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxfp4 as jf
from jaxfp4.conv import quantize_kernel

# kernel spatial, in channels, out channels, groups, strides, padding, lhs dilation, rhs dilation
GEOMETRIES = [
    ((3, 3), 16, 8, 1, (1, 1), "SAME", None, None),
    ((3, 3), 5, 7, 1, (2, 1), "VALID", None, None),
    ((1, 1), 48, 4, 1, (1, 1), "VALID", None, None),
    ((3, 2), 8, 12, 4, (1, 2), ((1, 2), (0, 1)), None, (2, 1)),
    ((3, 3), 16, 16, 16, (1, 1), "SAME", None, None),  # depthwise
    ((2, 3), 6, 4, 1, (1, 1), ((1, 1), (2, 2)), (2, 3), None),  # transposed
    ((5,), 10, 6, 2, (2,), "SAME", None, (1,)),
    ((2, 2, 2), 4, 8, 1, (1, 1, 2), "SAME_LOWER", None, None),
]


def normal(*shape, seed=0):
    """In NumPy, which cuts and turns without compiling anything."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp8], ids=str)
def test_any_geometry(geometry, format):
    taps, channels, features, groups, strides, padding, lhs_dilation, rhs_dilation = geometry
    x = normal(2, *(9, 8, 7)[: len(taps)], channels)
    kernel = normal(*taps, channels // groups, features, seed=1)
    dims = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}[
        len(taps)
    ]

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, lhs_dilation, rhs_dilation, dims, groups,
            precision="highest",
        )  # fmt: skip

    def ours(x, kernel, recipe):
        return jf.scaled_conv_general_dilated(
            x, kernel, strides, padding, lhs_dilation, rhs_dilation, None, groups, recipe=recipe
        )

    high = jf.Recipe()
    np.testing.assert_allclose(ours(x, kernel, high), plain(x, kernel), rtol=1e-4, atol=1e-4)
    # Quantized weights alone: the convolution with the decoded kernel, in value and gradient.
    recipe = jf.recipes.weight_only(format)
    packed = quantize_kernel(kernel, jf.Quantizer(format), None, groups)
    matrix = arrays.dequantize(packed)
    decoded = np.moveaxis(matrix.reshape(features, *taps, channels // groups), 0, -1)
    y = jax.jit(lambda x, k: ours(x, k, recipe))(x, kernel)
    np.testing.assert_allclose(y, plain(x, decoded), rtol=1e-4, atol=1e-4)
    weights = normal(*y.shape, seed=2)
    gx, gk = jax.grad(lambda x, k: (ours(x, k, recipe) * weights).sum(), (0, 1))(x, kernel)
    exact = jax.grad(lambda x, k: (plain(x, k) * weights).sum(), (0, 1))
    ex, ek = jax.jit(exact)(x, decoded)
    np.testing.assert_allclose(gx, ex, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gk, ek, rtol=1e-3, atol=1e-3)
    # The packed kernel serves with the bits of training.
    both = jf.recipes.qat(format)
    served = jf.scaled_conv_general_dilated(
        x, packed, strides, padding, lhs_dilation, rhs_dilation, None, groups,
        recipe=both, rhs_shape=kernel.shape,
    )  # fmt: skip
    np.testing.assert_array_equal(served, ours(x, kernel, both))


def test_other_layouts():
    x, kernel = normal(2, 6, 9, 8), normal(4, 6, 3, 3, seed=1)
    recipe = jf.recipes.qat(jf.mxfp4)
    y = jf.scaled_conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"), recipe=recipe
    )
    last = jf.scaled_conv_general_dilated(
        x.transpose(0, 2, 3, 1), kernel.transpose(2, 3, 1, 0), (1, 1), "SAME", recipe=recipe
    )
    np.testing.assert_array_equal(y, last.transpose(0, 3, 1, 2))


def test_errors():
    x, kernel = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 4, 8))
    recipe = jf.recipes.qat(jf.nvfp4)
    with pytest.raises(jf.ShapeError, match="channels must be groups"):
        jf.scaled_conv_general_dilated(x, kernel, (1, 1), "SAME", recipe=recipe)
    packed = quantize_kernel(kernel, jf.Quantizer(jf.nvfp4))
    with pytest.raises(jf.ShapeError, match="needs rhs_shape"):
        jf.scaled_conv_general_dilated(x, packed, (1, 1), "SAME", recipe=recipe)
