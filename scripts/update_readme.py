"""Writes the tables in README.md that follow from the code.

python scripts/update_readme.py           write them
python scripts/update_readme.py --check   exit with 1 if they are out of date
"""

import argparse
import pathlib
import re
import sys

from jaxfp4 import dispatch
from jaxfp4.formats import FORMATS, BlockShape, Format

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def formats_table() -> str:
    """What is stored of each format, and the choices it has."""
    rows = [("format", "elements", "block", "block scale", "bits / element", "scale rules")]
    rows += [
        (
            f"`{f}`",
            f.element.name,
            ", ".join(map(block_text, f.block_shapes)),
            scale_text(f),
            f"{f.bits_per_element:g}",
            ", ".join(f.scale_rules),
        )
        for f in FORMATS.values()
    ]
    return markdown(rows)


def block_text(block: BlockShape) -> str:
    named = {(None, None): "tensor", (1, None): "channel"}
    return named.get(block, "×".join(map(str, block)))


def scale_text(f: Format) -> str:
    return f.scale.name + (", and a float32 global scale" if f.has_global_scale else "")


def kernels_table() -> str:
    """Which operations have kernels in the sources, whatever is built on this machine."""
    rows = [("operation", "CPU", "NVIDIA GPU", "any other platform")]
    cpu, cuda = registered("cpu"), registered("cuda")
    for target in dispatch.export_targets():
        name = re.sub(r"^jaxfp4_(\w+)_v\d+$", r"`\1`", target)
        kernels = ("C++" if target in cpu else "XLA", "CUDA" if target in cuda else "XLA", "XLA")
        rows.append((name, *kernels))
    return markdown(rows)


def registered(platform: str) -> set[str]:
    """The FFI targets that the handlers of a platform register."""
    operations = (ROOT / "cc/ffi/operations.h").read_text()
    targets = dict(re.findall(r'struct (\w+Op) {\s+static .*"(jaxfp4_\w+_v\d+)"', operations))
    handlers = (ROOT / f"cc/ffi/{platform}_handlers.cc").read_text()
    return {targets[name] for name in re.findall(r"\b\w+Op\b", handlers)}


def markdown(rows: list[tuple[str, ...]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


TABLES = {"formats": formats_table, "kernels": kernels_table}


def updated(text: str) -> str:
    """README's text with its tables made anew, each between its two markers."""
    for name, table in TABLES.items():
        between = re.compile(rf"(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text, found = between.subn(lambda m, t=table: f"{m[1]}{t()}\n{m[2]}", text)
        assert found == 1, f"README.md has no place for the table {name!r}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    old = README.read_text(encoding="utf-8")
    new = updated(old)
    if not check:
        README.write_text(new, encoding="utf-8")
    return int(check and new != old)


if __name__ == "__main__":
    sys.exit(main())
