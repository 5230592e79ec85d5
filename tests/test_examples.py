"""The examples run, and print what they promise."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *options: object) -> str:
    """What an example prints in its quick mode; any warning of jaxfp4's own is an error."""
    command = [sys.executable, "-W", "error:::jaxfp4", EXAMPLES / name, "--quick", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _needs():
    for module in ("flax", "optax", "sklearn", "matplotlib"):
        pytest.importorskip(module)


def test_quickstart(tmp_path):
    picture = tmp_path / "picture.png"
    printed = run("quickstart.py", "--out", picture)
    for row in ("float32", "PTQ nvfp4", "QAT nvfp4", "PTQ mxfp4", "QAT mxfp4"):
        assert f"\n{row} " in printed
    assert "SQNR dB" in printed
    assert picture.stat().st_size > 10_000


def test_qat_linen():
    printed = run("qat_linen.py")
    for row in ("float32", "QAT nvfp4", "QAT mxfp4"):
        assert f"{row} " in printed


def test_sgd_research(tmp_path):
    picture = tmp_path / "picture.png"
    printed = run("sgd_research.py", "--out", picture)
    shares = {line.split()[0]: line.split()[1] for line in printed.splitlines()[2:6]}
    assert float(shares["float32"]) == pytest.approx(1, abs=0.01)
    assert abs(float(shares["nearest"])) < 0.2
    assert float(shares["stochastic24"]) == pytest.approx(1, abs=0.2)
    assert picture.stat().st_size > 10_000
