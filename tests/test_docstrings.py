"""Every public name says what it is, and the examples in docstrings run."""

import doctest
import importlib
import inspect
import pathlib

import pytest

import jaxfp4

ROOT = pathlib.Path(__file__).resolve().parents[1]


def modules() -> list[str]:
    files = (ROOT / "jaxfp4").rglob("*.py")
    names = (".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files)
    return sorted(n.removesuffix(".__init__") for n in names if not n.endswith("__main__"))


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert module.__doc__, f"{name} has no docstring"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0


def test_public_names_are_documented():
    public = {n: getattr(jaxfp4, n) for n in vars(jaxfp4) if not n.startswith("_")}
    callables = {n: v for n, v in public.items() if callable(v)}
    assert {n for n, v in callables.items() if not inspect.getdoc(v)} == set()


def test_public_functions_show_an_example():
    functions = {n: v for n, v in vars(jaxfp4).items() if inspect.isfunction(v) and n[0] != "_"}
    assert functions
    assert {n for n, v in functions.items() if ">>>" not in (inspect.getdoc(v) or "")} == set()
