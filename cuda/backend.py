"""scikit-build-core, with a CUDA compiler from PyPI where there is no other."""

import os
import shutil

import scikit_build_core.build as build
from scikit_build_core.build import build_wheel  # noqa: F401

# One version: ptxas takes what its own nvcc writes.
COMPILER = [
    f"nvidia-{part}==13.0.*"
    for part in ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-runtime", "cuda-cccl")
]


def get_requires_for_build_wheel(config_settings=None):
    found = shutil.which("nvcc") or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    requires = build.get_requires_for_build_wheel(config_settings)
    return requires if found else [*requires, *COMPILER]
