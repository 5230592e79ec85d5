"""How fast are the GPU's kernels? Beside XLA's bfloat16 product and a copy, in the same run.

A program of several independent calls on different arrays, too many for the caches together, is
run several times; the time of a call is the program's over their number. Reported are the median
and the least.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import shapes

import jaxfp4 as jf
from jaxfp4 import native
from jaxfp4.ops.scaled_dot_transposed import scaled_dot_transposed

LAYERS = [layer for layer in shapes.LLAMA if layer.name != "out"]
TINY = shapes.Layer("tiny", "tiny", 256, 256)
DEEP = shapes.Layer("DeepSeek-V3", "deep", 4096, 7168)
ROWS = (1, 4, 8, 16, 64, 256, 4096)
FORMATS = {
    "nvfp4": jf.Quantizer(jf.nvfp4),
    "mxfp4": jf.Quantizer(jf.mxfp4),
    "mxfp8": jf.Quantizer(jf.mxfp8),
    "fp8 128x128": jf.Quantizer(jf.fp8_e4m3, block_shape=(128, 128)),
}


class Bench:
    def __init__(self, options):
        self.dry_run = options.dry_run
        self.deadline = time.time() + options.seconds
        self.results: list[dict] = []

    def time(self, name: str, f, arguments: list[tuple], nbytes: int = 0, flops: int = 0) -> None:
        """Times f on each of the arguments, all in one program."""
        if time.time() > self.deadline:
            self.results.append({"name": name, "skipped": "out of time"})
            return
        program = jax.jit(lambda arguments: [f(*a) for a in arguments])
        jax.block_until_ready(program(arguments))
        samples = []
        for _ in range(3 if self.dry_run else 12):
            begin = time.perf_counter()
            jax.block_until_ready(program(arguments))
            samples.append((time.perf_counter() - begin) / len(arguments))
        median, least = statistics.median(samples), min(samples)
        row = {"name": name, "us": median * 1e6, "least_us": least * 1e6, "calls": len(arguments)}
        if nbytes:
            row["GB/s"] = nbytes / median / 1e9
        if flops:
            row["TFLOP/s"] = flops / median / 1e12
        self.results.append(row)
        rates = ", ".join(f"{row[k]:.1f} {k}" for k in ("GB/s", "TFLOP/s") if k in row)
        print(f"{name:<44} {row['us']:>10.1f} us  {rates}", flush=True)


def size_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def copies(shape_bytes: int, dry_run: bool) -> int:
    """How many arrays of a size exceed the last-level cache together."""
    return 2 if dry_run else max(4, min(24, (256 << 20) // max(shape_bytes, 1)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def random_array(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


def bench_copy(bench: Bench) -> None:
    shape = (64, 1024) if bench.dry_run else (16384, 16384)
    x = [(random_array(jax.random.key(i), shape, jnp.float32),) for i in range(2)]
    bench.time("copy float32 (read and write)", lambda x: x + 1, x, nbytes=2 * size_of(x[0]))


def bench_blocks(bench: Bench) -> None:
    shape = (64, 1024) if bench.dry_run else (8192, 8192)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = [(random_array(jax.random.key(i), shape, dtype),) for i in range(4)]
        name = jnp.dtype(dtype).name
        bench.time(f"amax {name}", amax, x, nbytes=size_of(x[0]))
        bench.time(f"hadamard 16 {name}", lambda x: jf.hadamard(x, 16), x, nbytes=2 * size_of(x[0]))
        for label, q in FORMATS.items():
            # A static scale where there could be one: the kernel alone, without a pass for amax.
            if q.takes_global_scale:
                q = q.replace(global_scale=1.0)
            packed = jf.quantize(x[0][0], q)
            nbytes = size_of(x[0]) + size_of((packed.data, packed.scale))
            bench.time(f"quantize {label} {name}", lambda x: jf.quantize(x, q), x, nbytes)  # noqa: B023
            bench.time(
                f"fake_quantize {label} {name}",
                lambda x: jf.fake_quantize(x, q),  # noqa: B023
                x,
                2 * size_of(x[0]),
            )
            codes = [(jf.quantize(a[0], q),) for a in x]
            bench.time(
                f"dequantize {label} {name}",
                lambda p: jf.dequantize(p, dtype),  # noqa: B023
                codes,
                nbytes,
            )


def amax(x):
    from jaxfp4.ops.amax import amax as op

    return op(x)


def bench_products(bench: Bench) -> None:
    for _, layer, n, k, _ in [TINY] if bench.dry_run else LAYERS:
        weights = [random_array(jax.random.key(i), (n, k), jnp.bfloat16) for i in range(4)]
        for m in (1, 16) if bench.dry_run else ROWS:
            x = random_array(jax.random.key(9), (m, k), jnp.bfloat16)
            count = 2 if bench.dry_run else 4 if m > 64 else 12
            flops = 2 * m * n * k
            args = [(x, weights[i % 4]) for i in range(count)]
            bench.time(
                f"XLA bfloat16 {layer} M={m}", bfloat16_dot, args, size_of(weights[0]), flops
            )
        for label, q in FORMATS.items():
            w = [jf.quantize(weight, q) for weight in weights]
            more = copies(size_of((w[0].data, w[0].scale)), bench.dry_run)
            w += [jax.tree.map(jnp.copy, w[0]) for _ in range(more - len(w))]
            for m in (1, 16) if bench.dry_run else ROWS:
                bench_product(bench, f"{label} {layer} M={m}", w, q, m, n, k)


FP8 = functools.partial(jf.Quantizer, jf.fp8_e4m3)
FP8_PAIRS = {
    "tensors": (FP8(), FP8()),
    "rows": (FP8(block_shape=(1, None)), FP8(block_shape=(1, None))),
    "1x128 x 128x128": (FP8(block_shape=(1, 128)), FP8(block_shape=(128, 128))),
}


def bench_fp8(bench: Bench) -> None:
    """FP8 by FP8, beside XLA's FP8 product: cuBLASLt both, where it is there; and exactly."""
    for _, layer, n, k, _ in [TINY] if bench.dry_run else [LAYERS[0], DEEP]:
        weights = [random_array(jax.random.key(i), (n, k), jnp.bfloat16) for i in range(4)]
        for m in (1, 16) if bench.dry_run else (256, 4096):
            x, flops = random_array(jax.random.key(9), (m, k), jnp.bfloat16), 2 * m * n * k
            cast = [(x.astype(jnp.float8_e4m3fn), w.astype(jnp.float8_e4m3fn)) for w in weights]
            bench.time(f"XLA float8 {layer} M={m}", bfloat16_dot, cast, n * k, flops)
            for label, (left, right) in FP8_PAIRS.items():
                codes = [(jf.quantize(x, left), jf.quantize(w, right)) for w in weights]
                for precision in (None, "highest"):
                    name = f"scaled_dot fp8 {label} {precision or 'default'} {layer} M={m}"
                    dot = functools.partial(
                        jf.scaled_dot, precision=precision, preferred_element_type=jnp.bfloat16
                    )
                    bench.time(name, dot, codes, n * k, flops)


def bench_w4a8(bench: Bench) -> None:
    """FP8 by MXFP4, beside XLA's products of two FP8 and of two bfloat16 operands."""
    for _, layer, n, k, _ in [TINY] if bench.dry_run else [LAYERS[-1], DEEP]:
        weights = [random_array(jax.random.key(i), (n, k), jnp.bfloat16) for i in range(4)]
        w = [jf.quantize(weight, jf.mxfp4) for weight in weights]
        nbytes = size_of((w[0].data, w[0].scale))
        w += [jax.tree.map(jnp.copy, w[0]) for _ in range(copies(nbytes, bench.dry_run) - len(w))]
        for m in (1, 16) if bench.dry_run else (16, 32, 64, 4096):
            x, flops = random_array(jax.random.key(9), (m, k), jnp.bfloat16), 2 * m * n * k
            dtypes = {"bfloat16": jnp.bfloat16, "float8": jnp.float8_e4m3fn}
            for name, dtype in dtypes.items():
                cast = [(x.astype(dtype), weight.astype(dtype)) for weight in weights]
                size = n * k * jnp.dtype(dtype).itemsize
                bench.time(f"XLA {name} {layer} M={m}", bfloat16_dot, cast, size, flops)
            for label, block_shape in (("rows", (1, None)), ("1x128", (1, 128))):
                codes = jf.quantize(x, FP8(block_shape=block_shape))
                name = f"scaled_dot fp8 {label} x mxfp4 {layer} M={m}"
                dot = functools.partial(jf.scaled_dot, preferred_element_type=jnp.bfloat16)
                bench.time(name, dot, [(codes, v) for v in w], nbytes, flops)


def bfloat16_dot(x, w):
    return jax.lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.bfloat16)


def bench_product(bench: Bench, name: str, w: list, q, m: int, n: int, k: int) -> None:
    x = random_array(jax.random.key(9), (m, k), jnp.bfloat16)
    few = w if m <= 64 else w[:4]
    nbytes, flops = size_of((w[0].data, w[0].scale)), 2 * m * n * k
    dot = functools.partial(jf.scaled_dot, preferred_element_type=jnp.bfloat16)
    bench.time(f"scaled_dot W-only {name}", dot, [(x, v) for v in few], nbytes, flops)
    if m in (1, 16, 4096):
        codes = jf.quantize(x, q.replace(block_shape=(1, q.block_shape[1])))
        bench.time(f"scaled_dot W and A {name}", dot, [(codes, v) for v in few], nbytes, flops)


def bench_ragged(bench: Bench) -> None:
    """The experts of gpt-oss-20b, four for each token, beside XLA's product in bfloat16."""
    groups, n, k = (8, 64, 96) if bench.dry_run else (32, 5760, 2880)
    weights = random_array(jax.random.key(1), (groups, n, k), jnp.bfloat16)
    packed = jf.quantize(weights, jf.mxfp4)
    for tokens in (1, 8) if bench.dry_run else (1, 8, 64, 512, 4096):
        m = 4 * tokens
        x = random_array(jax.random.key(9), (m, k), jnp.bfloat16)
        rng = np.random.default_rng(tokens)
        chosen = [
            np.concatenate([rng.permutation(groups)[:4] for _ in range(tokens)]) for _ in range(8)
        ]
        sizes = [jnp.asarray(np.bincount(c, minlength=groups), jnp.int32) for c in chosen]
        read = sum(len(set(c)) for c in chosen) / len(chosen) / groups
        flops = 2 * m * n * k
        name = f"experts MXFP4 {tokens} tokens"
        nbytes = int(read * size_of((packed.data, packed.scale)))
        bench.time(f"ragged_dot {name}", ragged_dot, [(x, packed, s) for s in sizes], nbytes, flops)
        swapped = [(x, weights, s) for s in sizes[:2]]
        bench.time(f"XLA ragged_dot bfloat16 {tokens} tokens", xla_ragged_dot, swapped, 0, flops)


def ragged_dot(x, w, sizes):
    return jf.ragged_dot(x, w, sizes, preferred_element_type=jnp.bfloat16)


def xla_ragged_dot(x, w, sizes):
    return jax.lax.ragged_dot(x, w.swapaxes(1, 2), sizes)


def bench_gradients(bench: Bench) -> None:
    """The products of a backward pass, from the operands that the forward pass packed."""
    for _, layer, n, k, _ in [TINY] if bench.dry_run else LAYERS:
        m = 32 if bench.dry_run else 4096
        ct = random_array(jax.random.key(8), (m, n), jnp.bfloat16)
        for label in ("nvfp4", "mxfp4"):
            for name, rows, first in (("dgrad", n, False), ("wgrad", m, True)):
                x = random_array(jax.random.key(9), (rows, k), jnp.bfloat16)
                q = jf.quantize(x, FORMATS[label])
                dot = functools.partial(rows_dot, contracted_first=first)
                bench.time(f"{name} {label} {layer} M={m}", dot, [(ct, q)] * 4, 0, 2 * m * n * k)


def rows_dot(ct, q, contracted_first: bool):
    packed = (q.data, q.scale, q.global_scale)
    return scaled_dot_transposed(
        ct, packed, q.format, q.block_shape, jnp.bfloat16,
        batch=0, contracted_first=contracted_first,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="small, on any device")
    parser.add_argument("--seconds", type=float, default=115, help="begin nothing after this time")
    parser.add_argument("--json", help="where to write the results")
    bench = Bench(parser.parse_args())
    device = jax.devices()[0]
    with jf.use_backend("auto" if bench.dry_run else "native"):
        for part in (
            bench_copy, bench_w4a8, bench_fp8, bench_products, bench_gradients, bench_ragged,
            bench_blocks,
        ):  # fmt: skip
            part(bench)
    print("kernels of scaled_dot:", native.routes())
    path = parser.parse_args().json
    if path:
        about = {
            "device": device.device_kind,
            "jax": jax.__version__,
            "module": {k: str(v) for k, v in native.features("cuda").items()},
            "routes": native.routes(),
        }
        pathlib.Path(path).write_text(json.dumps({"about": about, "timings": bench.results}))


if __name__ == "__main__":
    main()
