"""Globs over paths."""

import pytest

from jaxfp4.errors import LayerError
from jaxfp4.paths import assign, matches


@pytest.mark.parametrize(
    ("pattern", "path", "whole", "below"),
    [
        ("head", "head", True, True),
        ("head", "model/head", False, False),
        ("head", "head/kernel", False, True),
        ("head", "headers", False, False),
        ("**/head", "head", True, True),
        ("**/head", "a/b/head", True, True),
        ("a/**/z", "a/z", True, True),
        ("a/**/z", "a/b/c/z", True, True),
        ("layers/*", "layers/0", True, True),
        ("layers/*", "layers/0/mlp", False, True),
        ("layers/?/mlp", "layers/10/mlp", False, False),
        ("l*s/1*", "layers/12", True, True),
        ("**", "", True, True),
        ("**", "a/b", True, True),
        ("a.c", "abc", False, False),
        ("a/**", "a", True, True),
        ("a/**", "ab", False, False),
    ],
)
def test_matches(pattern, path, whole, below):
    assert matches(pattern, path) == whole
    assert matches(pattern, path, below=True) == below


def test_a_rule_that_others_hide_is_unmatched():
    with pytest.raises(LayerError, match="no layer matches 'a'"):
        assign("f", ["a", "b"], {"**": 1, "a": 2})
    report = assign("f", ["a", "b"], {"a": 2, "**": 1})
    assert report.matched == {"a": 2, "b": 1}
    assert report.unmatched == ()


def test_the_rule_for_everything():
    assert assign("f", ["a"], {"a": 1, "**": 2}).unmatched == ()
    with pytest.raises(LayerError, match="the layers are none"):
        assign("f", [], {"**": 1})
