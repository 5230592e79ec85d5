"""XLA operations: one primitive a file, each on the stack of :mod:`jaxfp4.ops._op`."""
