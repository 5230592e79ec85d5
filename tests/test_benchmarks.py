"""The benchmark suite runs, on tiny arrays, and its results can be read, joined and drawn."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


def run(script: str, *options: object) -> str:
    """Under XLA's own settings: not with all of them does it compile JAX's 4-bit types."""
    command = [sys.executable, BENCHMARKS / script, *options]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> pathlib.Path:
    """Two runs that share a file: the second adds its section."""
    path = tmp_path_factory.mktemp("benchmarks") / "result.json"
    run("cpu.py", "--tiny", "--ops", "ceilings", "gemv", "gemm", "blocks", "--json", path)
    run("cpu.py", "--tiny", "--ops", "overhead", "train", "--json", path)
    return path


def test_rows_have_what_reports_and_goals_read(result):
    content = json.loads(result.read_text())
    assert list(content["sections"]) == ["ceilings", "gemv", "gemm", "blocks", "overhead", "train"]
    for name, section in content["sections"].items():
        assert section["rows"]
        assert re.fullmatch(r"[0-9a-f]{40}\+?", section["commit"]) or not section["commit"]
        for row in section["rows"]:
            assert row["section"] == name
            assert 0 < row["seconds"]["low"] <= row["seconds"]["median"] < 10, row
            assert row["by"] in ("jaxfp4", "xla", "jnp", "lax", "reference", "ceiling")


def test_a_result_names_no_host_and_no_folder(result):
    import platform

    text = result.read_text()
    assert str(BENCHMARKS.parent) not in text
    assert f'"{platform.node()}"' not in text


def test_report_and_plot(result, tmp_path):
    pytest.importorskip("matplotlib")
    plot, joined = tmp_path / "roofline.png", tmp_path / "joined.json"
    text = run("report.py", result, result, "--plot", plot, "--json", joined)
    for wanted in ("## Goals", "### tiny layer M=1 K=256 N=64", "over XLA float32", "of byte dot"):
        assert wanted in text
    assert plot.stat().st_size > 10_000
    assert json.loads(joined.read_text()) == json.loads(result.read_text())


def test_goals_compare_within_a_group(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import goals

    def row(group, seconds, **facts):
        return {"group": group, "seconds": {"median": seconds}, "bytes": 100, "flops": 50, **facts}

    rows = [
        row("a", 8.0, by="xla"), row("b", 6.0, by="xla"), row("b", 2.0, by="us", threads=2),
    ]  # fmt: skip
    goal = goals.Goal("", {"by": "us"}, 4, 2, {"by": "xla"})
    assert goal.measured(rows) == 3
    assert [goal.verdict(x) for x in (None, 1, 3, 4)] == ["not measured", "MISSED", "least", "goal"]
    assert goals.Goal("", {"by": "us"}, 1, 1, {"by": "xla"}, "flops", 0.5).measured(rows) == 6
    assert goals.Goal("", {"by": "us"}, 1, 1).measured(rows) == pytest.approx(25e-9)
    assert goals.Goal("", {"by": "them"}, 1, 1).measured(rows) is None


def test_a_race_spreads_samples_and_reports_each_contestant(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import timing

    order = []

    def contestant(name, seconds):
        return lambda: order.append(name) or seconds

    times = timing.race({"a": contestant("a", 0.01), "b": contestant("b", 0.04)}, 0.4, least=2)
    assert times["a"] == {"median": 0.01, "low": 0.01, "samples": 20}
    assert times["b"]["samples"] == 5
    taken = "".join(order[-27:])  # without the calls that compile and estimate
    assert "aaaaaa" not in taken
