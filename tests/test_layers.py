"""The house rules that a reader of the code relies on, checked in the sources."""

import ast
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

from jaxfp4 import formats

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxfp4"

# From the bottom up. A module imports from layers below its own, or from its own. "jaxfp4" is the
# package's __init__, which gathers what lies below it.
LAYERS = (
    ("formats", "errors", "orders"),
    ("array",),
    ("reference", "native", "dispatch"),
    ("ops",),
    ("layouts", "quantizer", "calibration", "recipes", "dot", "ragged", "conv", "einsum", "export"),
    ("jaxfp4",),
    ("paths", "rows", "weights"),
    ("nnx", "linen", "optim", "io", "tree"),
    ("reporting", "testing"),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
CORE_DEPENDENCIES = {"jax", "numpy", "ml_dtypes"}


def python_files() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
    """``jaxfp4.ops._op`` of ``jaxfp4/ops/_op.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """What LAYERS calls a module: its name, or that of the folder under jaxfp4 it is in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            continue
        yield node
        yield from at_run_time(node)


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports from jaxfp4 in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if is_module(inner) else str(node.module)


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def where(path: pathlib.Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


# ------------------------------------------------------------------ Python


def test_every_module_has_a_layer():
    units = {unit(module_name(path)) for path in python_files()}
    assert units <= set(LEVEL), "place the new module in LAYERS"


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_imports_point_down(path):
    own = unit(module_name(path))
    if own == "jaxfp4":
        return
    for line, module in imported(at_run_time(parse(path))):
        if module.split(".")[0] == "jaxfp4":
            below = unit(module)
            assert LEVEL[below] <= LEVEL[own], f"{where(path, line)}: {own} imports {below}"


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_the_core_needs_jax_alone(path):
    if LEVEL[unit(module_name(path))] > LEVEL["jaxfp4"]:
        return
    for line, module in imported(at_run_time(parse(path))):
        top = module.split(".")[0]
        known = top in CORE_DEPENDENCIES or top in sys.stdlib_module_names or top == "jaxfp4"
        assert known, f"{where(path, line)}: {module} is an optional dependency"


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_private_names_of_jax_stay_in_one_file(path):
    if module_name(path) == "jaxfp4.ops._op":
        return
    tree = parse(path)
    names = {module for _, module in imported(ast.walk(tree))}
    names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not [name for name in names if re.match(r"(jax|flax|jaxlib)\._src\b", name)]


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_one_file_reads_the_environment(path):
    if module_name(path) != "jaxfp4.dispatch":
        assert not re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------ a format is data

FORMAT_NAMES = {*formats.FORMATS, "mxfp8"}


def compared(tree: ast.AST) -> Iterator[ast.expr]:
    """Every expression that is one side of a comparison, a case, or an argument of startswith."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            sides = node.args if node.func.attr in ("startswith", "endswith") else []
        else:
            continue
        for side in sides:
            yield from side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]


def names_a_format(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and any(
            node.value == name or (len(node.value) > 1 and name.startswith(node.value))
            for name in FORMAT_NAMES
        )
    return getattr(node, "id", getattr(node, "attr", None)) in FORMAT_NAMES


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_no_python_tests_the_name_of_a_format(path):
    if module_name(path) == "jaxfp4.formats":
        return
    found = [where(path, node.lineno) for node in compared(parse(path)) if names_a_format(node)]
    assert not found, f"{found}: read the format's fields instead"


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("f is nvfp4", True),
        ("f == jf.mxfp4", True),
        ("f.name == 'nvfp4'", True),
        ("name in ('mxfp4', 'nvfp4')", True),
        ("name.startswith('mxfp')", True),
        ("f.element.bits == 4", False),
        ("quantize(x, nvfp4).shape == y.shape", False),
    ],
)
def test_that_check_itself(code, caught):
    assert any(map(names_a_format, compared(ast.parse(code)))) == caught


# ------------------------------------------------------------------ C++

CC_LAYERS = {
    "codec": {"codec"},
    "cpu": {"codec", "cpu"},
    "cuda": {"codec", "cuda"},
    "ffi": {"codec", "cpu", "cuda", "ffi"},
    "module": {"cpu", "cuda", "ffi", "module"},
}


def cc_files() -> list[pathlib.Path]:
    suffixes = {".h", ".cc", ".cu", ".cuh"}
    return sorted(p for p in (ROOT / "cc").rglob("*") if p.suffix in suffixes)


def kernel_files() -> list[pathlib.Path]:
    """What may not know a format by name: all but the codecs, and the labels of tests."""
    return [p for p in cc_files() if cc_name(p).split("/")[1] not in ("codec", "test", "bench")]


def cc_name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", cc_files(), ids=cc_name)
def test_includes_point_down(path):
    folder = path.relative_to(ROOT / "cc").parts[0]
    for include in re.findall(
        r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.MULTILINE
    ):
        assert folder == "ffi" or not include.startswith("xla/"), f"{include}: for cc/ffi only"
        assert folder == "module" or not include.startswith("nanobind/"), (
            f"{include}: cc/module only"
        )
        inside = re.match(r"cc/(\w+)/", include)
        if inside and folder in CC_LAYERS:
            assert inside[1] in CC_LAYERS[folder], f"cc/{folder} includes {include}"


@pytest.mark.parametrize("path", kernel_files(), ids=cc_name)
def test_no_kernel_tests_the_name_of_a_format(path):
    names = "|".join(sorted(FORMAT_NAMES))
    tests = rf'"({names})"|(==|!=|\bcase)\s*[\w:]*({names})'
    found = re.search(tests, without_comments(path.read_text()), re.IGNORECASE)
    assert not found, f"tests a format: {found}"


@pytest.mark.parametrize("path", cc_files(), ids=cc_name)
def test_one_file_asks_which_gpu_it_is_compiled_for(path):
    """cc/cuda/CMakeLists.txt gives most architectures the PTX of the oldest; not that file's."""
    text = without_comments(path.read_text()).replace("defined(__CUDA_ARCH__)", "")
    assert path.name == "quantize_blocks.cu" or "__CUDA_ARCH_" not in text
