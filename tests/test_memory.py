"""What a compiled program holds in memory: packed weights stay packed."""

import mmap
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4 import native

needs_kernels = pytest.mark.skipif(
    not native.targets("cpu"), reason="the CPU kernels are not built: the reference decodes weights"
)


@needs_kernels
@pytest.mark.parametrize("format", [jf.nvfp4, jf.mxfp4, jf.mxfp8, jf.fp8_e4m3], ids=str)
@pytest.mark.parametrize("rows", [1, 64])
def test_no_float_copy_of_a_packed_weight(format, rows):
    n, k = 1024, 2048
    x = jnp.ones((rows, k))
    q = jf.quantize(
        jnp.asarray(np.random.default_rng(0).standard_normal((n, k)), jnp.float32), format
    )
    compiled = jax.jit(jf.scaled_dot).lower(x, q).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < n * k // 2
    assert memory.argument_size_in_bytes < x.nbytes + q.nbytes + 4096
    assert "f32[1024,2048]" not in compiled.as_text()


@needs_kernels
def test_quantizing_activations_makes_no_second_float_copy():
    x = jnp.ones((256, 2048))
    q = jf.quantize(jnp.ones((512, 2048)), jf.nvfp4)
    f = jax.jit(lambda x, q: jf.scaled_dot(jf.quantize(x, jf.nvfp4), q))
    memory = f.lower(x, q).compile().memory_analysis()
    assert memory.temp_size_in_bytes < x.nbytes // 4


LARGE = 64 << 20


def page_faults(write) -> int:
    """Of this process, while ``write`` runs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    write()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def system_gives_huge_pages() -> bool:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    with mmap.mmap(-1, LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        zeros = bytes(1 << 20)
        faults = page_faults(lambda: [memory.write(zeros) for _ in range(LARGE >> 20)])
    return faults < LARGE // mmap.PAGESIZE // 4


@needs_kernels
@pytest.mark.skipif(not system_gives_huge_pages(), reason="the system gives no huge pages")
def test_large_results_are_written_to_huge_pages():
    """More than malloc ever keeps for reuse, so that it is new memory."""
    q = jf.quantize(jnp.ones((1024, LARGE // 4 // 1024)), jf.nvfp4)
    decode = jax.jit(jf.dequantize)
    decode(q).block_until_ready().delete()
    faults = page_faults(lambda: decode(q).block_until_ready())
    assert faults < LARGE // mmap.PAGESIZE // 4
