"""The examples in docstrings run, and say the truth."""

import doctest
import importlib
import pkgutil

import pytest

import jaxfp4


def modules() -> list[str]:
    found = pkgutil.walk_packages(jaxfp4.__path__, "jaxfp4.")
    return sorted(m.name for m in found if not m.name.rpartition(".")[2].startswith("_"))


@pytest.mark.parametrize("name", ["jaxfp4", *modules()])
def test_examples(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.failed == 0
