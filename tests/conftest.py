"""Shared fixtures. Four virtual CPU devices, for the tests of sharding."""

import contextlib
import gc
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import jax
import numpy as np
import pytest

import jaxfp4 as jf
from jaxfp4 import native


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=8, help="random cases for each fuzz seed")


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not go through it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """What a file had compiled is of no use to the next, and adds up to gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


TARGETS = list(native.features("cpu").get("targets", ()))
BEST = native.features("cpu").get("active")


@contextlib.contextmanager
def running_on(name: str):
    """The reference, or the native kernels of one CPU target."""
    if name == "reference":
        with jf.use_backend("reference"):
            yield name
    else:
        with jf.testing.force_cpu_target(name), jf.use_backend("native"):
            yield name


@pytest.fixture(params=["reference", *TARGETS])
def backend(request):
    """The reference and every CPU target that this machine and build have, one after another."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=["reference", *([BEST] if BEST else [])])
def reference_and_best(request):
    """The reference and the CPU target in use: for what the C++ tests check on every target."""
    with running_on(request.param):
        yield request.param


@pytest.fixture
def mesh_shape():
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    return (2, 2)
