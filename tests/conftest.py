"""Shared fixtures. Four virtual CPU devices, for the tests of sharding."""

import contextlib
import os
import zlib

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
    parser.addoption(
        "--share", type=int, default=int(os.environ.get("JAXFP4_TEST_SHARE", "1")),
        help="run about one in so many cases, and of each test at least its first",
    )  # fmt: skip


def pytest_collection_modifyitems(config, items):
    share = config.getoption("--share")
    met = set()
    kept, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        # By a hash, since parameters take turns in periods of their own.
        chosen = test not in met or zlib.crc32(item.nodeid.encode()) % share == 0
        (kept if chosen else left_out).append(item)
        met.add(test)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


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
