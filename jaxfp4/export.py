"""What ``jax.export`` needs to know of jaxfp4's operations."""

from __future__ import annotations

import jax.export

from jaxfp4 import dispatch


def export_checks() -> list[jax.export.DisabledSafetyCheck]:
    """The ``disabled_checks`` that let ``jax.export`` serialize jaxfp4's custom calls.

    The targets carry a version in their names and keep their meaning under it.

    Example:
      >>> import jax, jax.numpy as jnp, jaxfp4 as jf
      >>> f = jax.jit(lambda x: jf.fake_quantize(x, jf.nvfp4))
      >>> x = jax.ShapeDtypeStruct((4, 32), jnp.float32)
      >>> exported = jax.export.export(f, disabled_checks=jf.export_checks())(x)
    """
    return [
        jax.export.DisabledSafetyCheck.custom_call(target) for target in dispatch.export_targets()
    ]
