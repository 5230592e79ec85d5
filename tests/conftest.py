"""Shared fixtures. Four virtual CPU devices, for the tests of sharding."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import jax
import numpy as np
import pytest

from jaxfp4 import native


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=8, help="random cases for each fuzz seed")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cpu_targets() -> list[str]:
    """The CPU targets that this machine and build have; none without the extension."""
    return list(native.features("cpu").get("targets", ()))


@pytest.fixture(params=["reference", *cpu_targets()])
def backend(request):
    """The reference, and the native kernels of every CPU target."""
    import jaxfp4 as jf

    if request.param == "reference":
        with jf.use_backend("reference"):
            yield request.param
        return
    native.force_target(request.param)
    with jf.use_backend("native"):
        yield request.param
    native.force_target("")


@pytest.fixture
def mesh_shape():
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    return (2, 2)
