"""The arithmetic of jaxfp4 in plain jax.numpy.

It is the specification that every kernel is tested against, bit for bit, and the lowering on every
platform that has no kernel of its own. It is written to survive its compiler:

* XLA turns a division by a constant, or by a broadcast, into a multiplication by a reciprocal, so
  divisors are made to look different for every element (:func:`floats.divide`);
* XLA and LLVM contract ``x * y + z`` to a fused multiply-add, so a product that is summed goes
  through :func:`floats.rounded`;
* XLA:CPU flushes subnormal numbers, so subnormal float32 numbers count as zero everywhere.
"""
