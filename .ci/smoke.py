"""What an installed wheel must do, with none of the optional packages, on any supported Python."""

import jax
import numpy as np

import jaxfp4 as jf

x = jax.random.normal(jax.random.key(0), (48, 256))
w = jax.random.normal(jax.random.key(1), (32, 256))


def everything(format: jf.Format):
    q = jf.quantize(x, format)
    return q.data, q.scale, jf.dequantize(q), jf.scaled_dot(q, jf.quantize(w, format))


for format in jf.formats.FORMATS.values():
    with jf.use_backend("native"):  # an error where the wheel has no kernel
        native = everything(format)
    with jf.use_backend("reference"):
        reference = everything(format)
    for name, a, b in zip(("data", "scale", "values"), native, reference, strict=False):
        np.testing.assert_array_equal(a, b, err_msg=f"{format} {name}")
    np.testing.assert_allclose(native[-1], reference[-1], rtol=1e-5, atol=1e-4)
print(f"jaxfp4 {jf.__version__} on jax {jax.__version__}: {len(jf.formats.FORMATS)} formats agree")
