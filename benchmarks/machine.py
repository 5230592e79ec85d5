"""What a result was measured on and with. No names of hosts, people or folders."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output_of(*command: str) -> str:
    """What a command prints, or nothing where it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit of this checkout, with a ``+`` where tracked files differ from it."""
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return output_of("git", "rev-parse", "HEAD") + ("+" if changed else "")


def threads() -> int:
    """The processors that this process may use, which is what XLA's pool has threads for."""
    return len(os.sched_getaffinity(0))


def busy_seconds_of_others() -> float:
    """Processor time that other processes have had since the system started."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    mine = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks - mine.user - mine.system


def last_level_cache() -> int:
    """Bytes of the largest cache of a processor; 32 MiB where the system does not say."""
    sizes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(s.read_text().strip().rstrip("K")) << 10 for s in sizes), default=32 << 20)


def machine() -> dict:
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""

    def field(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
        return found[1] if found else ""

    return {
        "cpu": field("model name") or platform.machine(),
        "family": field("cpu family"),
        "model": field("model"),
        "threads": threads(),
        "last_level_cache": last_level_cache(),
    }


def versions() -> dict[str, str]:
    from jaxfp4 import native

    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    kernels = str(native.features("cpu").get("active", "none"))
    return {"python": platform.python_version(), **packages, "kernels": kernels}
