"""The units that come with the daemon: where they are looked for, in a checkout and in an installation."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest

from avault_daemon import main
from avault_daemon.systemd import units
from avault_protocol import InternalError

ROOT = Path(__file__).parents[2]


def test_in_a_checkout_they_are_those_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--print-units", "user"]) == 0
    printed: dict[str, str] = json.loads(capsys.readouterr().out)
    assert printed == {path.name: path.read_text() for path in (ROOT / "systemd/user").iterdir()}


def test_in_an_installation_they_lie_where_the_wheel_puts_its_data() -> None:
    checkout, installed, *_ = units.directories()
    assert checkout == ROOT / "systemd"
    assert installed == Path(sysconfig.get_path("data")) / "share/avault/systemd"
    packaging = (ROOT / "pyproject.toml").read_text()
    assert f'"systemd" = "{units.SHARED}"' in packaging


def test_the_first_place_that_has_them_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    (there / "system").mkdir(parents=True)
    (there / "system/a.service").write_text("[Unit]\n")
    (there / "b-sysusers.conf").write_text("u avault\n")
    monkeypatch.setattr(units, "directories", lambda: iter([tmp_path / "none", there]))
    assert units.read("system") == {"a.service": "[Unit]\n", "b-sysusers.conf": "u avault\n"}
    with pytest.raises(InternalError, match="has no units"):
        units.read("user")


def test_an_installation_without_units_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(units, "directories", lambda: iter([]))
    assert main.run(["--print-units", "user"]) == InternalError.exit_status
    assert "this installation has no units" in capsys.readouterr().err
