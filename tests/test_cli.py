"""python -m jaxfp4."""

import json
import subprocess
import sys

import jax
import pytest

import jaxfp4
from jaxfp4 import cli


def test_info_is_plain_data(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["jaxfp4"] == jaxfp4.__version__
    assert facts["versions"]["jax"] == jax.__version__
    assert len(facts["devices"]) == jax.device_count()
    served = {row["operation"]: row for row in facts["operations"]}
    assert served["scaled_dot"]["tpu"] == "reference"
    assert served["scaled_dot"]["cpu"] == jaxfp4.backends()["scaled_dot", "cpu"]


def test_info_as_text_names_every_operation_once_a_line(capsys):
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    operations = {name for name, _, _ in jaxfp4.backends().rows}
    assert operations <= {line.split()[0] for line in lines if line.strip()}
    assert lines == [line.rstrip() for line in lines]


def test_info_reports_the_back_end_in_force():
    with jaxfp4.use_backend("reference"):
        assert cli.info()["backend"] == "reference"


def test_info_of_a_missing_module_says_why(monkeypatch):
    monkeypatch.setattr(
        cli.native, "_load", lambda _: cli.native._Loaded(None, frozenset(), "gone")
    )
    facts = cli.info()
    assert facts["native"]["cpu"] == {"missing": "gone"}
    assert any("none: gone" in line for line in cli._lines(facts))


def test_info_of_a_missing_package():
    assert cli._version("no-such-package") is None


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: jaxfp4" in capsys.readouterr().err


def test_as_a_module():
    command = [sys.executable, "-m", "jaxfp4", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["jaxfp4", jaxfp4.__version__]
