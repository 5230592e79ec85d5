"""Instructions of each operation on each CPU target, as a table in Markdown.

    python benchmarks/instructions.py BUILD        a build with -DJAXFP4_BUILD_BENCH=ON

Counted by valgrind (which knows no AVX-512) or, for an aarch64 build, by qemu, so that an idle
machine is not needed, nor one of the kind. The base of the ratios is plain code without vectors:
other cells are how many times fewer instructions a target executes.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent


def output(*command) -> str:
    run = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    )
    return run.stdout + run.stderr


class Counter:
    """Runs a program under an instrument that prints `Collected : N`."""

    def __init__(self, program: pathlib.Path, scratch: pathlib.Path) -> None:
        self.program = program
        if "aarch64" in output("file", "-b", "-L", program):
            plugin = scratch / "count.so"
            output("cc", "-shared", "-fPIC", "-O1", "-o", plugin, HERE / "count_instructions.c")
            self.plain = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
            self.counting = [*self.plain, "-plugin", plugin]
        else:
            self.plain = []
            self.counting = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]

    def lists(self) -> tuple[list[str], list[str]]:
        """Targets (under the instrument: it may lack some) and operations."""
        text = output(*self.counting, self.program)
        text = "\n".join(line for line in text.splitlines() if not line.startswith("=="))
        targets, operations = re.search(r"targets\n(.*)\noperations\n(.*)", text, re.S).groups()
        known = [line for line in operations.splitlines() if "Collected" not in line]
        return targets.split(), [line for line in known if line]

    def executed(self, target: str, operation: str, times: int) -> int:
        text = output(*self.counting, self.program, target, operation, times)
        return int(re.search(r"Collected : (\d+)", text)[1])

    def instructions(self, target: str, operation: str) -> int:
        """Of one call, when others have gone before it."""
        return self.executed(target, operation, 3) - self.executed(target, operation, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--only", default="", help="operations with this in their names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        counter = Counter(arguments.build / "cc/bench/instructions_bench", pathlib.Path(scratch))
        targets, operations = counter.lists()
        print(f"| | {targets[0]}, thousands | " + " | ".join(targets[1:]) + " |")
        print("|---|" + "---:|" * len(targets))
        for operation in operations:
            if arguments.only not in operation:
                continue
            base, *rest = [counter.instructions(target, operation) for target in targets]
            cells = [f"{base / 1e3:.0f}", *[f"{base / count:.1f}" for count in rest]]
            print(f"| {operation} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
