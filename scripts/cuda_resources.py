"""What the CUDA module's kernels cost and are made of, against what was meant.

python scripts/cuda_resources.py MODULE            registers, local memory and instructions
python scripts/cuda_resources.py MODULE --update   write cc/cuda/resources.txt

MODULE is a compiled jaxfp4/native/_cuda*.so; nothing is compiled, and no GPU is needed. Needs
cuobjdump and nvdisasm, of CUDA or of the PyPI packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm, and c++filt.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator

TABLE = pathlib.Path(__file__).resolve().parents[1] / "cc" / "cuda" / "resources.txt"
HEADER = """\
# Registers a thread of each kernel has on each architecture; "+ n": and n bytes of local memory.
# scripts/cuda_resources.py compares this with a build, and --update writes it.
"""

EVERYWHERE = r"sm_\w+"
# Instructions that kernels were written for: patterns of the kernel, of the architecture, and of
# an instruction that must be in its code.
MEANT = (
    (r"(Ragged)?GemvKernel<\d, true>", EVERYWHERE, r"LDG\.E\.128"),
    (r"(Ragged)?MmaKernel<MmaShape<1, .*", EVERYWHERE, r"HMMA\.16816\.F32\.BF16"),
    (r"(Ragged)?MmaKernel<MmaShape<1, .*, \w+, false>, \w+>", EVERYWHERE, r"LDSM\.16\.M88\.4"),
    (r"MmaKernel<MmaShape<1, .*, true, \w+>, \w+>", EVERYWHERE, r"LDSM\.16\.MT88\.4"),
    (r"WgmmaKernel<Transposed.*", r"sm_90", r"LDSM\.16\.MT88\.4"),
    (r"WgmmaKernel<WgmmaParts<.*", r"sm_90", r"HGMMA\.64x128x16\.F32\.BF16"),
    *(
        (rf"WgmmaKernel<Fp8Parts<{n}, .*", r"sm_90", rf"QGMMA\.64x{n}x32\.F32\.E4M3\.E4M3")
        for n in (16, 32, 64, 128)
    ),
    (r"WgmmaKernel<.*", r"sm_90", r"LDGSTS\.E\.BYPASS\.128"),
    (r"BlockScaledKernel<0, 0, 0>", r"sm_12\w+", r"OMMA\.SF\.16864\.F32\.E2M1\.E2M1\.UE4M3\.4X"),
    (r"BlockScaledKernel<1, 0, 0>", r"sm_12\w+", r"OMMA\.SF\.16864\.F32\.E2M1\.E2M1\.E8"),
    (r"BlockScaledKernel<2, .*", r"sm_12\w+", r"QMMA\.SF\.16832\.F32\.E[45]M[32]\.E[45]M[32]\.E8"),
    (r"TensorKernel<0>", r"sm_10\w+", r"UTCOMMA\.4X"),
    (r"TensorKernel<1>", r"sm_10\w+", r"UTCOMMA"),
    (r"TensorKernel<2>", r"sm_10\w+", r"UTCQMMA"),
    (r"TensorKernel<.*", r"sm_10\w+", r"UTCCP\.T\.S\.4x32dp128bit"),
    (r"TensorKernel<.*", r"sm_10\w+", r"LDGSTS\.E\.BYPASS\.128"),
    (r"TensorKernel<.*", r"sm_10\w+", r"LDTM\.x32"),
    (r"TensorKernel<.*", r"sm_10\w+", r"STG\.E\.128"),
    (r"QuantizeKernel<E2M1, 0>", EVERYWHERE, r"LDG\.E\.128"),
    (r"QuantizeKernel<E2M1, 0>", EVERYWHERE, r"STG\.E\.64"),
    (r"QuantizeKernel<E2M1, 0>", r"sm_1[02]\w+", r"F2FP\.SATFINITE\.E2M1"),
    (r"DequantizeKernel<E2M1>", EVERYWHERE, r"STG\.E\.128"),
)

# Instructions that cost more than those meant in their place: loads and stores of memory of an
# unknown kind, but for kernels of clusters, which read each other's shared memory so; and of local
# memory, where the table has none for the kernel.
LOADS, STORES, LOCAL, CLUSTER = r"LD\.E.*", r"ST\.E.*", r"LDL.*|STL.*", r"UCGABAR.*"

# kernel -> architecture -> (registers, bytes of local memory)
Costs = dict[str, dict[str, tuple[int, int]]]


def tool(name: str) -> str:
    """A program of CUDA: on PATH, or among this Python's packages."""
    packages = pathlib.Path(sys.prefix).glob(f"lib/python*/site-packages/nvidia/cu13/bin/{name}")
    found = shutil.which(name) or next(map(str, packages), None)
    if found is None:
        sys.exit(f"no {name}: install CUDA, or pip install nvidia-cuda-{name}")
    os.chmod(found, 0o755)  # wheels forget it
    return found


def lines_of(*command: str) -> Iterator[str]:
    path = f"{pathlib.Path(tool('nvdisasm')).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # warns of each part of a module that lacks a function
        text=True,
        env={**os.environ, "PATH": path},
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        sys.exit(f"{command[0]} failed on {command[-1]}")


def demangled(symbols: Iterable[str]) -> dict[str, str]:
    """Symbols to names without namespaces, arguments and casts."""
    symbols = sorted(set(symbols))
    result = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    )
    names = {}
    for symbol, name in zip(symbols, result.stdout.splitlines(), strict=True):
        name = name.replace("(anonymous namespace)", "anonymous")
        name = name[: name.rindex("(")]
        names[symbol] = re.sub(r"\(jaxfp4::[\w:]+\)|\b\w+::|^void ", "", name)
    return names


def architecture_in(line: str) -> str | None:
    """Without the letter that code has which only this architecture, or its family, can run."""
    found = re.match(r"arch = (sm_\d+)", line)
    return found[1] if found else None


def measured(module: str) -> tuple[Costs, dict[str, str]]:
    """What each kernel of a module costs, and the names of its symbols."""
    rows = []
    architecture = symbol = ""
    for line in lines_of(tool("cuobjdump"), "-res-usage", module):
        architecture = architecture_in(line) or architecture
        if found := re.match(r" Function (\S+):", line):
            symbol = found[1]
        elif found := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line):
            registers, stack, local = map(int, found.groups())
            rows.append((symbol, architecture, (registers, stack + local)))
    names = demangled(row[0] for row in rows)
    costs: Costs = collections.defaultdict(dict)
    for symbol, architecture, cost in rows:  # where names are the same, the dearest
        of_name = costs[names[symbol]]
        of_name[architecture] = max(cost, of_name.get(architecture, (0, 0)))
    return costs, names


def instructions(module: str, symbols: list[str]) -> dict[tuple[str, str], set]:
    """The opcodes in the code of (symbol, architecture)."""
    opcodes: dict[tuple[str, str], set] = collections.defaultdict(set)
    architecture = symbol = ""
    command = (tool("cuobjdump"), "-sass", "-fun", ",".join(symbols), module)
    for line in lines_of(*command):
        architecture = architecture_in(line) or architecture
        if found := re.match(r"\s+Function : (\S+)", line):
            symbol = found[1]
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]+)", line):
            opcodes[symbol, architecture].add(found[1])
    return opcodes


# ------------------------------------------------------------------ the table


def architecture_order(architecture: str) -> int:
    return int(re.sub(r"\D", "", architecture))


def rendered(costs: Costs) -> str:
    architectures = sorted({a for row in costs.values() for a in row}, key=architecture_order)
    rows = [["kernel", *architectures]]
    for kernel in sorted(costs):
        rows.append([kernel, *(text_of(costs[kernel].get(a)) for a in architectures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    return HEADER + "\n".join(lines) + "\n"


def text_of(cost: tuple[int, int] | None) -> str:
    if cost is None:
        return "-"
    return f"{cost[0]} + {cost[1]}" if cost[1] else str(cost[0])


def committed() -> Costs:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    columns = re.split(r" {2,}", lines[0])
    costs: Costs = {}
    for line in lines[1:]:
        cells = re.split(r" {2,}", line)
        costs[cells[0]] = {
            architecture: (int(cell.split(" + ")[0]), int((cell + " + 0").split(" + ")[1]))
            for architecture, cell in zip(columns[1:], cells[1:], strict=True)
            if cell != "-"
        }
    return costs


# ------------------------------------------------------------------ the checks


def dearer(costs: Costs, allowed: Costs) -> Iterator[str]:
    """Kernels that cost more than the table has for them, or are not in it."""
    for kernel, row in sorted(costs.items()):
        for architecture, cost in row.items():
            most = allowed.get(kernel, {}).get(architecture)
            if most is None:
                yield f"{kernel} on {architecture} is not in {TABLE.name}"
            elif cost[0] > most[0] or cost[1] > most[1]:
                yield f"{kernel} on {architecture} has {text_of(cost)}, at most {text_of(most)}"
    built = {a for row in costs.values() for a in row}
    for kernel, row in allowed.items():
        for architecture in built & (row.keys() - costs.get(kernel, {}).keys()):
            yield f"{kernel} on {architecture} is in {TABLE.name}, but not in the module"


def unlike(module: str, costs: Costs, names: dict[str, str]) -> Iterator[str]:
    """Kernels without the instructions that were meant, or with others."""
    symbols = [s for s, name in names.items() if any(re.fullmatch(k, name) for k, _, _ in MEANT)]
    opcodes = instructions(module, symbols)
    for kernel, architectures, instruction in MEANT:
        matching = [
            (names[symbol], architecture, found)
            for (symbol, architecture), found in opcodes.items()
            if re.fullmatch(kernel, names[symbol]) and re.fullmatch(architectures, architecture)
        ]
        built = {a for row in costs.values() for a in row if re.fullmatch(architectures, a)}
        if built and not matching:
            yield f"no kernel {kernel} on {', '.join(sorted(built))}"
        for name, architecture, found in matching:
            if not any(re.match(instruction, opcode) for opcode in found):
                yield f"{name} on {architecture} has no {instruction}"
    allowed = committed()
    for (symbol, architecture), found in opcodes.items():
        _, local_bytes = allowed.get(names[symbol], {}).get(architecture, (0, 0))
        of_cluster = any(re.fullmatch(CLUSTER, opcode) for opcode in found)
        never = [STORES, *([] if local_bytes else [LOCAL]), *([] if of_cluster else [LOADS])]
        for opcode in sorted(filter(re.compile("|".join(never)).fullmatch, found)):
            yield f"{names[symbol]} on {architecture} has {opcode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    costs, names = measured(arguments.module)
    if not costs:
        sys.exit(f"{arguments.module} holds no kernels")
    if arguments.update:
        TABLE.write_text(rendered(costs), encoding="utf-8")
    problems = [*dearer(costs, committed()), *unlike(arguments.module, costs, names)]
    print("\n".join([*problems, f"{len(costs)} kernels, {len(problems)} problems"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
