"""BUILD, CMake and the tree name the same C++ sources, compiled with the same flags.

A BUILD file is also Python, given functions for its rules: it is run here, not pattern-matched.
"""

import ast
import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def relative(paths) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in paths}


def tree(*suffixes: str) -> set[str]:
    return relative(p for p in (ROOT / "cc").rglob("*") if p.suffix in suffixes)


class BuildFile:
    """The rules that BUILD instantiates, and the patterns in it that match nothing."""

    def __init__(self) -> None:
        self.rules: dict[str, dict] = {}
        self.empty_globs: list[str] = []
        names = {rule: self.rule for rule in ("cc_library", "cc_binary", "cc_test", "py_library")}
        for function in ("load", "package", "licenses", "exports_files"):
            names[function] = lambda *args, **kwargs: None
        self.names = names | {"glob": self.glob, "select": self.every_branch}
        exec(compile((ROOT / "BUILD").read_text(), "BUILD", "exec"), self.names)

    def rule(self, *, name: str, **attributes) -> None:
        assert name not in self.rules, f"BUILD has two rules called {name}"
        self.rules[name] = attributes

    def glob(self, patterns, exclude=(), allow_empty=False) -> list[str]:
        found = relative(
            path for pattern in patterns for path in self.matches(pattern, allow_empty)
        )
        return sorted(found - relative(p for e in exclude for p in ROOT.glob(e)))

    def matches(self, pattern: str, allow_empty: bool) -> list[pathlib.Path]:
        found = list(ROOT.glob(pattern))
        if not found and not allow_empty:
            self.empty_globs.append(pattern)
        return found

    def every_branch(self, branches: dict[str, list]) -> list:
        return [item for branch in branches.values() for item in branch]

    def uses(self, attribute: str) -> collections.Counter[str]:
        """How many rules have each file or label in an attribute."""
        return collections.Counter(
            entry for rule in self.rules.values() for entry in rule.get(attribute, [])
        )


@pytest.fixture(scope="module")
def build() -> BuildFile:
    return BuildFile()


def cmake_text() -> str:
    files = [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")]
    return "\n".join(p.read_text() for p in files)


def cmake_sources() -> set[str]:
    """What the globs and the file names in CMake's files match."""
    found: set[pathlib.Path] = set()
    for file in [
        *ROOT.glob("CMakeLists.txt"),
        *ROOT.glob("cmake/*"),
        *ROOT.glob("cc/*/CMakeLists.txt"),
    ]:
        here = "." if file.parent.name == "cmake" else file.parent.relative_to(ROOT).as_posix()
        text = re.sub(
            r"\$\{(PROJECT|CMAKE)_SOURCE_DIR\}/", "", re.sub(r"#.*", "", file.read_text())
        )
        text = text.replace("${CMAKE_CURRENT_SOURCE_DIR}/", f"{here}/")
        for pattern in re.findall(r"[\w*./-]+\.(?:cc|cu)\b", text):
            found |= {*ROOT.glob(pattern), *ROOT.glob(f"{here}/{pattern}")}
    return relative(found)


def cmake_flags(name: str) -> list[str]:
    (flags,) = re.findall(rf"set\(JAXFP4_{name}_FLAGS ([^)]*)\)", cmake_text())
    expand = re.sub(r"\$\{JAXFP4_(\w+)_FLAGS\}", lambda m: " ".join(cmake_flags(m[1])), flags)
    return expand.split()


def test_build_is_in_the_language_of_build_files():
    """Bazel runs no part of Python that unpacks arguments or defines functions in a BUILD file."""
    nodes = list(ast.walk(ast.parse((ROOT / "BUILD").read_text())))
    banned = (ast.Starred, ast.FunctionDef, ast.Lambda, ast.For, ast.If, ast.Import, ast.JoinedStr)
    assert not [n.lineno for n in nodes if isinstance(n, banned)]
    assert not [n.value.lineno for n in nodes if isinstance(n, ast.keyword) and n.arg is None]
    assert not [n.lineno for n in nodes if isinstance(n, ast.Dict) and None in n.keys]


# ------------------------------------------------------------------ sources


def test_every_source_is_built_by_bazel(build):
    sources = {s for s in tree(".cc", ".h") if "cuda" not in s}
    built = {f for f in (build.uses("srcs") + build.uses("hdrs")) if f.startswith("cc/")}
    assert built == sources


def test_every_source_is_built_by_cmake():
    assert cmake_sources() == tree(".cc", ".cu")


def test_nothing_in_build_is_stale(build):
    assert not build.empty_globs
    local = {label[1:] for label in build.uses("deps") if label.startswith(":")}
    assert local <= set(build.rules)
    files = build.uses("srcs") + build.uses("hdrs") + build.uses("data")
    assert all((ROOT / f).exists() for f in files if not f.startswith(":"))


def test_kernels_are_compiled_once_per_target_and_the_rest_once(build):
    targets = len(build.names["TARGETS"])
    for source, count in build.uses("srcs").items():
        if source.endswith(".cc"):
            assert count == (targets if source.endswith("_kernel.cc") else 1), source


def test_the_python_package_is_whole(build):
    assert set(build.rules["jaxfp4"]["srcs"]) == relative((ROOT / "jaxfp4").rglob("*.py"))


# ------------------------------------------------------------------ flags


def test_the_targets_are_those_of_cmake(build):
    added = set(re.findall(r"^ *jaxfp4_add_target\((\w+)", cmake_text(), re.MULTILINE))
    assert set(build.names["TARGETS"]) == added
    for targets in ("X86_TARGETS", "ARM_TARGETS"):
        for target, flags in build.names[targets].items():
            assert flags == cmake_flags(target.upper()), target


def test_all_is_compiled_with_the_options_of_cmake(build):
    (options,) = re.findall(r"COMPILE_LANGUAGE:CXX>:(-[^$>]*)", cmake_text())
    copts = build.names["COPTS"]
    assert copts[0] == "-std=c++17"
    assert [o for o in copts if o[:2] == "-f"] == [o for o in options.split() if o[:2] == "-f"]
    for name, rule in build.rules.items():
        if rule.get("srcs") and name != "jaxfp4":
            assert rule["copts"][: len(copts)] == copts, name
