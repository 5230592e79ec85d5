"""What ``import jaxfp4`` costs, and what it leaves alone. In fresh processes."""

import json
import pathlib
import subprocess
import sys
import tomllib

import pytest

import jaxfp4
from jaxfp4 import native

OPTIONAL = ("flax", "optax", "orbax", "safetensors", "matplotlib", "rich")


def in_a_fresh_process(code: str, *options: str):
    """The last line that the code prints, as JSON."""
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_optional_packages_stay_unloaded():
    code = "import json, sys, jaxfp4; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in in_a_fresh_process(code)}
    assert not loaded & set(OPTIONAL)


def test_no_backend_is_started():
    code = (
        "import jax, json, sys, unittest.mock as mock\n"
        "with mock.patch('jax.devices', side_effect=AssertionError('a back end was started')):\n"
        "    import jaxfp4\n"
        "print(json.dumps('jaxfp4.native._cpu' in sys.modules))"
    )
    assert in_a_fresh_process(code) is False, "kernels are loaded on first use"


def test_the_cpu_kernels_are_there():
    assert native.targets("cpu"), native.why_missing("cpu")


def test_no_warning_at_import():
    # Warnings of jax's own import are jax's; from then on each is an error.
    code = "import jax, warnings; warnings.simplefilter('error'); import jaxfp4; print(1)"
    assert in_a_fresh_process(code) == 1


def test_import_is_quick():
    code = (
        "import time, jax\n"
        "start = time.process_time(); import jaxfp4; print(time.process_time() - start)"
    )
    best = min(in_a_fresh_process(code) for _ in range(3))
    assert best < 0.3, f"import jaxfp4 takes {best:.2f} s beyond jax's own"


def test_names_are_listed():
    assert {"quantize", "scaled_dot", "nvfp4", "nnx", "report"} <= set(dir(jaxfp4))
    with pytest.raises(AttributeError, match="no attribute 'nvfp5'"):
        _ = jaxfp4.nvfp5


def test_all_statements_of_the_version_agree():
    for path in ("pyproject.toml", "cuda/pyproject.toml"):
        pyproject = pathlib.Path(__file__).resolve().parents[1] / path
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        assert project["version"] == jaxfp4.__version__
    assert project["dependencies"] == [f"jaxfp4=={jaxfp4.__version__}"]
