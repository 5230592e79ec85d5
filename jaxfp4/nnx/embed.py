"""nnx.Embed under a recipe."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfp4 import weights
from jaxfp4.array import ScaledArray
from jaxfp4.nnx.hooks import TableProducts
from jaxfp4.weights import Packed


class QuantizedEmbed(nnx.Embed):
    """An ``nnx.Embed`` whose lookup and tied head read a quantized table.

    Flax publishes no hook for either, so an embedding that is prepared becomes of this class; its
    Variables, and every reference to it, stay as they are. Blocks lie along the features.
    """

    products: TableProducts

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError("Input type must be an integer or unsigned integer.")
        table = self.embedding[...]
        if not isinstance(table, ScaledArray):
            (table,) = self.promote_dtype((table,), dtype=self.dtype, inexact=False)
        rows = self.products(inputs, table, self.dtype)
        return rows if out_sharding is None else jax.sharding.reshard(rows, out_sharding)

    def attend(self, query: jax.Array, out_sharding: Any = None) -> jax.Array:
        table = self.embedding[...]
        if isinstance(table, ScaledArray):
            packed = Packed(table, table.shape)
            query, table = weights.promote(self.promote_dtype, packed, (query,), self.dtype)
        else:
            query, table = self.promote_dtype((query, table), dtype=self.dtype)
        return self.products.attend(query, table, out_sharding)
