"""README.md: its tables are those of the code, and its examples run."""

import importlib.util
import pathlib
import re

import pytest

from jaxfp4 import native

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts/update_readme.py"
    spec = importlib.util.spec_from_file_location("update_readme", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_current(script):
    assert script.updated(README) == README, "run python scripts/update_readme.py"


def test_the_sources_register_what_the_module_has(script):
    if native.targets("cpu"):
        assert script.registered("cpu") == native.targets("cpu")


def test_examples_run():
    pytest.importorskip("flax")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)


def test_the_comment_on_the_first_result_is_true():
    import jax.numpy as jnp

    import jaxfp4 as jf

    (shown,) = re.findall(r"# (ScaledArray\(.*\))", README)
    assert repr(jf.quantize(jnp.ones((1024, 512)), jf.nvfp4)) == shown


def test_links_lead_somewhere():
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
