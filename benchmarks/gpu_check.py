"""Are the GPU's kernels right? Codes and scales bit for bit, products within bounds.

Expected codes, scales and values come from the reference on this machine's CPU; products are
compared with float64 ones of the decoded operands. Prints one line a group, and exits with 1 if any
differ.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxfp4 as jf
from jaxfp4 import native
from jaxfp4.formats import FORMATS
from jaxfp4.ops.dequantize_blocks import dequantize_blocks
from jaxfp4.ops.fake_quantize import fake_quantize
from jaxfp4.ops.quantize_blocks import quantize_blocks
from jaxfp4.ops.scaled_dot_transposed import scaled_dot_transposed
from jaxfp4.reference import blocks as reference

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import cases

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


class Checks:
    """Runs functions on both devices, and counts what differs."""

    def __init__(self, dry_run: bool):
        self.cpu = jax.devices("cpu")[0]
        self.device = self.cpu if dry_run else jax.devices("gpu")[0]
        self.backend = "auto" if dry_run else "native"
        self.failed: list[str] = []
        self.count = 0

    def run(self, f, *args):
        """On the device, by its kernels."""
        with jf.use_backend(self.backend), jax.default_device(self.device):
            out = jax.jit(f)(*jax.device_put(args, self.device))
            return jax.tree.map(np.asarray, out)

    def expect(self, f, *args):
        """On the CPU, by the reference."""
        with jf.use_backend("reference"), jax.default_device(self.cpu):
            return jax.tree.map(np.asarray, jax.jit(f)(*jax.device_put(args, self.cpu)))

    def same_bits(self, name: str, got, expected) -> None:
        for i, (a, b) in enumerate(
            zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
        ):
            self.count += 1
            wrong = differing(a, b)
            if wrong:
                self.fail(f"{name}: result {i}: {wrong} of {b.size} differ")

    def fail(self, message: str) -> None:
        self.failed.append(message)
        if len(self.failed) <= 40:
            print("FAILED", message)


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """How many elements differ in their bits, where a NaN is like any other."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.size, 1)
    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32}[a.dtype.itemsize]
    same = a.view(bits) == b.view(bits)
    if a.dtype in (np.float32, jnp.bfloat16, np.float16):
        same |= np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    return int((~same).sum())


def hard_batch(kinds, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([cases.hard_matrix(kind, rng, rows, columns) for kind in kinds])


def quantizers(small: bool) -> list[jf.Quantizer]:
    every = cases.all_quantizers()
    return every[::9] if small else every


def check_blocks(checks: Checks, small: bool) -> None:
    """Every format, block shape, scale rule and arithmetic, on inputs that are hard on them."""
    kinds = ("normal", "nan") if small else cases.KINDS
    x32 = hard_batch(kinds, 40, 256)
    rng = np.random.default_rng(1)
    seeds = rng.integers(0, 2**32, (*x32.shape[:2], 2), dtype=np.uint32)
    for number, q in enumerate(quantizers(small)):
        # Roundings and float types in turn: all of them occur with every element type.
        rounding = ("nearest", "stochastic", "stochastic24")[number // 2 % 3]
        spec = q.replace(rounding=rounding).spec
        x = jnp.asarray(x32, DTYPES[number % 3])
        runs = (1, 256 // 4, 256 // 2, 256)[number % 4]
        columns = rng.permutation(runs).astype(np.uint32)
        random = None if rounding == "nearest" else (seeds, columns)
        per_channel = q.block_shape[1] is None and q.block_shape[0] is not None
        t = checks.expect(lambda x: reference.amax(x, 2 if per_channel else 1), x)  # noqa: B023
        outer = checks.expect(lambda t: reference.outer_from_amax(t, spec), t)  # noqa: B023
        name = f"{cases.ident(q)} {rounding} {x.dtype}"
        args = (x, outer) if random is None else (x, outer, *random)

        def quantized(x, outer, *random):
            return quantize_blocks(x, outer, spec, random or None)  # noqa: B023

        def faked(x, outer, *random):
            return fake_quantize(x, outer, spec, random or None)  # noqa: B023

        codes = checks.expect(quantized, *args)
        checks.same_bits(f"quantize {name}", checks.run(quantized, *args), codes)
        checks.same_bits(
            f"fake_quantize {name}", checks.run(faked, *args), checks.expect(faked, *args)
        )

        def decoded(data, scale, g):
            return dequantize_blocks(data, scale, g, x.dtype, q.format, q.block_shape)  # noqa: B023

        args = (*codes, np.ascontiguousarray(outer[..., 1]))
        checks.same_bits(
            f"dequantize {name}", checks.run(decoded, *args), checks.expect(decoded, *args)
        )


def check_others(checks: Checks, small: bool) -> None:
    """amax, and hadamard of every size."""
    for dtype in DTYPES[: 1 if small else 3]:
        x = jnp.asarray(hard_batch(cases.KINDS, 24, 1024), dtype)
        for rank in (0, 1, 2):
            args = lambda x: reference.amax(x, rank)  # noqa: B023, E731
            got = checks.run(lambda x: amax_op(x, rank), x)  # noqa: B023
            checks.same_bits(f"amax {x.dtype} rank {rank}", got, checks.expect(args, x))
        finite = jnp.asarray(hard_batch(("normal", "ties"), 24, 1024), dtype)
        for n in (2, 16, 128, 1024) if small else (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
            f = lambda x: jf.hadamard(x, n)  # noqa: B023, E731
            checks.same_bits(
                f"hadamard {n} {x.dtype}", checks.run(f, finite), checks.expect(f, finite)
            )


def amax_op(x, rank: int):
    from jaxfp4.ops.amax import amax

    return amax(x, rank)


def check_products(checks: Checks, small: bool) -> None:
    """scaled_dot of every format with floats of every type and with its own, few rows and many."""
    rng = np.random.default_rng(2)
    rows = (1, 7, 40) if small else (1, 2, 5, 8, 9, 64, 70, 300)
    for f in list(FORMATS.values())[:: 3 if small else 1]:
        depth, cols = 1152, 1000
        w = checks.expect(lambda x: jf.quantize(x, f), normal(rng, cols, depth))  # noqa: B023
        for lhs in (*DTYPES, "codes"):
            for m in rows:
                x = normal(rng, m, depth)
                if lhs == "codes":
                    a = checks.expect(lambda x: jf.quantize(x, f), x)  # noqa: B023
                    values = decoded_values(checks, a)
                else:
                    a = jnp.asarray(x, lhs)
                    values = np.asarray(a, np.float64)
                check_product(checks, f"{f} x {getattr(lhs, '__name__', lhs)} M={m}", a, w, values)
    check_batch(checks, rng)
    check_many_rows(checks, rng, small)
    check_pairs(checks, rng, small)
    check_w4a8(checks, rng, small)


def normal(rng, *shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def decoded_values(checks: Checks, q) -> np.ndarray:
    return checks.expect(jf.dequantize, q).astype(np.float64)


def exact_dot(a, w):
    return jf.scaled_dot(a, w, precision="highest")


def check_product(
    checks: Checks, name: str, a, w, values: np.ndarray, dot=exact_dot, relative: float = 0.0
) -> None:
    """Within ``relative`` of the sum of magnitudes; by default within the bound of numerics.md."""
    checks.count += 1
    got = checks.run(dot, a, w).astype(np.float64)
    again = checks.run(dot, a, w).astype(np.float64)
    weights = np.swapaxes(decoded_values(checks, w), -1, -2)
    expected, magnitude = values @ weights, np.abs(values) @ np.abs(weights)
    bound = (relative or (values.shape[-1] / 16 + 4) * 2.0**-22) * magnitude
    off = np.abs(got - expected)
    if not (off <= bound).all():
        worst = (off / np.maximum(bound, 1e-30)).max()
        checks.fail(
            f"scaled_dot {name}: {(off > bound).sum()} outputs, worst {worst:.3g} bounds off"
        )
    if not np.array_equal(got, again):
        checks.fail(f"scaled_dot {name}: not the same bits the second time")


def check_batch(checks: Checks, rng) -> None:
    """Experts: a batch of weights, and ragged sizes."""
    w = checks.expect(lambda x: jf.quantize(x, jf.nvfp4), normal(rng, 3, 50, 80))
    for m in (1, 9, 130):
        a = normal(rng, 3, m, 80)
        check_product(checks, f"batch of 3, M={m}", jnp.asarray(a), w, a.astype(np.float64))


def check_many_rows(checks: Checks, rng, small: bool) -> None:
    """The kernels for prefill and training: several tiles for each multiprocessor, ragged ones."""
    rows, cols, depth = (300, 514, 256) if checks.device is checks.cpu else (4100, 4002, 1152)
    rows = rows // 3 if small else rows
    for f in (jf.nvfp4, jf.mxfp4):
        w = checks.expect(lambda x: jf.quantize(x, f), normal(rng, cols, depth))  # noqa: B023
        floats = jnp.asarray(normal(rng, rows, depth), jnp.bfloat16)
        codes = checks.expect(lambda x: jf.quantize(x, f), normal(rng, rows, depth))  # noqa: B023
        for name, a in (("bfloat16", floats), ("codes", codes)):
            name = f"{f} x {name}, many rows"
            values = np.asarray(a, np.float64) if a is floats else decoded_values(checks, a)
            check_product(checks, name, a, w, values)
            wide = checks.run(exact_dot, a, w)
            for dtype in (jnp.bfloat16, jnp.float16):  # the same sums, rounded
                narrow = checks.run(lambda a, w: narrow_dot(a, w, dtype), a, w)  # noqa: B023
                checks.same_bits(f"{name}, {dtype.__name__}", narrow, wide.astype(dtype))


# Pairs of codes that tensor cores multiply as they are, where cuBLASLt or a kernel of ours can.
FP8 = functools.partial(jf.Quantizer, jf.fp8_e4m3)
PAIRS = {
    "fp8, tensors": (FP8(), FP8()),
    "fp8, e5m2 x e4m3": (jf.Quantizer(jf.fp8_e5m2), FP8()),
    "fp8, rows": (FP8(block_shape=(1, None)), FP8(block_shape=(1, None))),
    "fp8, tensor x rows": (FP8(), FP8(block_shape=(1, None))),
    "fp8, 1x128 x 128x128": (FP8(block_shape=(1, 128)), FP8(block_shape=(128, 128))),
    "fp8, 1x128 x 1x128": (FP8(block_shape=(1, 128)), FP8(block_shape=(1, 128))),
    "fp8 x mxfp4, rows": (FP8(block_shape=(1, None)), jf.Quantizer(jf.mxfp4)),
    "fp8 x mxfp4, 1x128": (FP8(block_shape=(1, 128)), jf.Quantizer(jf.mxfp4)),
    "mxfp8": (jf.Quantizer(jf.mxfp8), jf.Quantizer(jf.mxfp8)),
    "mxfp8, e5m2 x e4m3": (jf.Quantizer(jf.mxfp8_e5m2), jf.Quantizer(jf.mxfp8)),
    "mxfp4": (jf.Quantizer(jf.mxfp4), jf.Quantizer(jf.mxfp4)),
    "nvfp4": (jf.Quantizer(jf.nvfp4), jf.Quantizer(jf.nvfp4)),
    "nvfp4, 1x16 x 16x16": (
        jf.Quantizer(jf.nvfp4), jf.Quantizer(jf.nvfp4, block_shape=(16, 16))
    ),
}  # fmt: skip
FEWER_BITS = 144 * 2.0**-13  # docs/numerics.md, Products
SUMS_WITHOUT_ERROR = 2.0**-20  # what is left is the rounding of scales


def check_pairs(checks: Checks, rng, small: bool) -> None:
    """By default and exactly; and signs, whose sums any tensor core has exactly: every scale must
    meet its own elements."""
    rows, cols, depth = (68, 64, 256) if small else (516, 1008, 1152)
    for name, (left, right) in PAIRS.items():
        for kind, make in (("normal", normal), ("signs", signs)):
            per_block = left.block_shape[1] is not None
            per_row = per_block or left.block_shape[0] is not None
            x, w = make(rng, rows, depth), make(rng, cols, depth)
            if kind == "signs":
                x, w = spread(x, per_row, per_block), spread(w, per_row, per_block)
            a = checks.expect(lambda x: jf.quantize(x, left), x)  # noqa: B023
            b = checks.expect(lambda x: jf.quantize(x, right), w)  # noqa: B023
            values = decoded_values(checks, a)
            check_product(checks, f"{name}, {kind}, exactly", a, b, values)
            bound = SUMS_WITHOUT_ERROR if kind == "signs" else FEWER_BITS
            check_product(checks, f"{name}, {kind}", a, b, values, jf.scaled_dot, bound)


def check_w4a8(checks: Checks, rng, small: bool) -> None:
    """FP8 by MXFP4: every size of tile, and blocks whose scales are too far apart for e4m3."""
    depth, cols = 1152, 514
    powers = rng.integers(-14, 15, (cols, depth // 32)).repeat(32, axis=1)
    weights = normal(rng, cols, depth) * np.exp2(powers).astype(np.float32)
    w = checks.expect(lambda x: jf.quantize(x, jf.mxfp4), weights)
    for block_shape in ((1, None), (1, 128)):
        for m in (9, 64) if small else (9, 16, 33, 64, 300, 1030):
            left = FP8(block_shape=block_shape)
            a = checks.expect(lambda x: jf.quantize(x, left), normal(rng, m, depth))  # noqa: B023
            name = f"fp8 {block_shape} x mxfp4 M={m}"
            check_product(checks, name, a, w, decoded_values(checks, a), jf.scaled_dot, FEWER_BITS)


def signs(rng, *shape) -> np.ndarray:
    return rng.integers(-1, 2, shape).astype(np.float32)


def spread(x: np.ndarray, per_row: bool, per_block: bool) -> np.ndarray:
    """Times powers of two, which 128 rows or 128 columns share: other scales, the same codes."""
    if per_row:
        x = x * np.exp2(np.arange(x.shape[0]) // 128 % 5)[:, None].astype(np.float32)
    if per_block:
        x = x * np.exp2(np.arange(x.shape[1]) // 128 % 3)[None].astype(np.float32)
    return x


GROUPS = 32


def check_ragged(checks: Checks, small: bool) -> None:
    """ragged_dot of gpt-oss's depth and groups: a token, some and many, with empty groups."""
    rng = np.random.default_rng(3)
    depth, cols = (96, 40) if small else (2880, 200)
    for f in (jf.mxfp4, jf.nvfp4, jf.fp8_e4m3):
        w = checks.expect(lambda x: jf.quantize(x, f), normal(rng, GROUPS, cols, depth))  # noqa: B023
        for rows in (4, 48, 100, 300) if small else (4, 48, 100, 1000, 5000):
            share = rng.dirichlet(np.full(GROUPS, 0.5))
            sizes = rng.multinomial(rows - rows // 8, share).astype(np.int32)
            floats = jnp.asarray(normal(rng, rows, depth), jnp.bfloat16)
            check_groups(checks, f"{f} x bfloat16 M={rows}", floats, w, sizes)
            codes = checks.expect(lambda x: jf.quantize(x, f), normal(rng, rows, depth))  # noqa: B023
            check_groups(checks, f"{f} x codes M={rows}", codes, w, sizes)


def check_groups(checks: Checks, name: str, a, w, sizes: np.ndarray) -> None:
    """Each group within the bounds of its own product; zeros after the last."""
    checks.count += 1
    got = checks.run(wide_ragged_dot, a, w, sizes).astype(np.float64)
    coded = isinstance(a, jf.ScaledArray)
    values = decoded_values(checks, a) if coded else np.asarray(a, np.float64)
    weights = decoded_values(checks, w)
    ends = np.cumsum(sizes)
    for g, (begin, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        rows = slice(begin, end)
        off = np.abs(got[rows] - values[rows] @ weights[g].T)
        magnitude = np.abs(values[rows]) @ np.abs(weights[g].T)
        if not (off <= (values.shape[-1] / 16 + 4) * 2.0**-22 * magnitude).all():
            checks.fail(f"ragged_dot {name}: group {g} of {sizes[g]} rows is out of bounds")
    if got[ends[-1] :].any():
        checks.fail(f"ragged_dot {name}: rows of no group are not zeros")


def wide_ragged_dot(a, w, sizes):
    return jf.ragged_dot(a, w, sizes, preferred_element_type=jnp.float32)


def narrow_dot(a, w, dtype):
    return jf.scaled_dot(a, w, precision="highest", preferred_element_type=dtype)


def check_gradients(checks: Checks, small: bool) -> None:
    """Floats by the rows of codes, either operand contracted first, the result either way."""
    rng = np.random.default_rng(3)
    sizes = [(7, 80, 256), (33, 500, 384), (1040, 528, 1152)]
    if checks.device is not checks.cpu:
        sizes.append((4112, 400, 4096))  # several tiles for each multiprocessor
    for f in list(FORMATS.values())[:: 3 if small else 1]:
        for number, (m, n, k) in enumerate(sizes):
            q = checks.expect(lambda x: jf.quantize(x, f), normal(rng, n, k))  # noqa: B023
            for dtype in DTYPES:
                for first in (False, True):
                    out = bool(number % 2) == first
                    x = normal(rng, *((n, m) if first else (m, n)))
                    name = f"{f} x {dtype.__name__} {m} x {n} x {k}, {first}, {out}"
                    check_rows(checks, name, jnp.asarray(x, dtype), q, first, out)


def check_rows(checks: Checks, name: str, x, q, first: bool, out_transposed: bool) -> None:
    def product(x, q):
        packed = (q.data, q.scale, q.global_scale)
        return scaled_dot_transposed(
            x, packed, q.format, q.block_shape, jnp.float32,
            batch=0, contracted_first=first, out_transposed=out_transposed,
        )  # fmt: skip

    checks.count += 1
    got, again = (checks.run(product, x, q).astype(np.float64) for _ in range(2))
    values = np.asarray(x, np.float64)
    values, w = values.T if first else values, decoded_values(checks, q)
    expected, magnitude = values @ w, np.abs(values) @ np.abs(w)
    off = np.abs((got.T if out_transposed else got) - expected)
    bound = (w.shape[0] + 2) * 2.0**-23 * magnitude
    if not (off <= bound).all():
        worst = (off / np.maximum(bound, 1e-30)).max()
        checks.fail(f"transposed {name}: {(off > bound).sum()} outputs, worst {worst:.3g} bounds")
    if not np.array_equal(got, again):
        checks.fail(f"transposed {name}: not the same bits the second time")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a sample, for slow tools")
    parser.add_argument("--dry-run", action="store_true", help="a sample, on the CPU")
    parser.add_argument("--json", help="where to write the outcome")
    options = parser.parse_args()
    checks = Checks(options.dry_run)
    small = options.small or options.dry_run
    seconds = {}
    checks_made = (check_blocks, check_others, check_products, check_ragged, check_gradients)
    for check in checks_made:
        begin, before = time.time(), len(checks.failed)
        check(checks, small)
        seconds[check.__name__] = round(time.time() - begin, 1)
        print(
            f"{check.__name__}: {len(checks.failed) - before} failures, {seconds[check.__name__]} s"
        )
    routes = {name: calls for name, calls in native.routes().items() if calls}
    print("kernels of scaled_dot:", ", ".join(f"{k} {v}" for k, v in routes.items()) or "none")
    print(f"{checks.count} checks, {len(checks.failed)} failures")
    if options.json:
        outcome = {
            "checks": checks.count, "failures": checks.failed, "seconds": seconds,
            "routes": native.routes(),
        }  # fmt: skip
        pathlib.Path(options.json).write_text(json.dumps(outcome))
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
