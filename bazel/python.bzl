"""@jaxfp4_python: what the C++ code needs of a Python with jaxlib and nanobind installed.

The Python is $PYTHON_BIN_PATH, or else python3. Its targets are

    :xla_ffi    XLA's FFI headers, of jaxlib
    :nanobind   nanobind, with Python's headers
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "xla_ffi",
    hdrs = glob(["jaxlib/xla/ffi/api/*.h"]),
    includes = ["jaxlib"],
)

cc_library(
    name = "python",
    hdrs = glob(["python/**/*.h"]),
    includes = ["python"],
)

cc_library(
    name = "nanobind",
    srcs = ["nanobind/src/nb_combined.cpp"],
    hdrs = glob(["nanobind/include/nanobind/**/*.h"]),
    copts = ["-std=c++17", "-w", "-fvisibility=hidden", "-fno-strict-aliasing"],
    includes = ["nanobind/include"],
    local_defines = ["NB_COMPACT_ASSERTIONS"],
    textual_hdrs = glob([
        "nanobind/src/*.cpp",
        "nanobind/src/*.h",
    ]),
    deps = [
        ":python",
        ":robin_map",
    ],
)

cc_library(
    name = "robin_map",
    hdrs = glob(["nanobind/ext/robin_map/include/tsl/*.h"]),
    includes = ["nanobind/ext/robin_map/include"],
)
"""

_LOCATE = """
import sysconfig
from importlib.util import find_spec

for package in ("jaxlib", "nanobind"):
    spec = find_spec(package)
    print(spec.submodule_search_locations[0] if spec else "")
print(sysconfig.get_path("include"))
"""

def _python_headers(ctx):
    name = ctx.os.environ.get("PYTHON_BIN_PATH", "python3")
    python = ctx.path(name) if "/" in name else ctx.which(name)
    found = ctx.execute([python, "-c", _LOCATE])
    paths = found.stdout.splitlines()
    if found.return_code or not paths[0] or not paths[1]:
        fail("%s lacks jaxlib or nanobind; set PYTHON_BIN_PATH. %s" % (python, found.stderr))
    ctx.symlink(paths[0] + "/include", "jaxlib")
    for part in ["ext", "include", "src"]:
        ctx.symlink("%s/%s" % (paths[1], part), "nanobind/" + part)
    ctx.symlink(paths[2], "python")
    ctx.file("BUILD", _BUILD)

python_headers = repository_rule(
    implementation = _python_headers,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
)
