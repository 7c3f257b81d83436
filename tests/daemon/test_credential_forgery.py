"""A system service under a uid of its own, and processes that claim to be systemd: in the right cgroup and not, as root
and not. systemd itself is in tests/system."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from support import cgroups
from support.attacks import SPARE_UID
from support.fetching import Fetched, address, fetch_as
from support.services import Service, system_service

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be systemd")

VALUE = "7250119083:AAF-a-token"
GIVEN = Fetched(len(VALUE), VALUE.encode())


@pytest.fixture(scope="module")
def service() -> Generator[Service]:
    with system_service() as service:
        service.put(TOKEN=VALUE, OTHER="another unit's")
        service.grant("telegram/credentials", "TOKEN", units=["telegram.service"])
        service.grant("weather/credentials", "OTHER", units=["weather.service"])
        yield service


@pytest.fixture(scope="module")
def units() -> Generator[dict[str, Path]]:
    with cgroups.made("telegram.service/.control", "weather.service") as (below, weather):
        yield {"telegram": below.parent, "below": below, "weather": weather}


def ask(service: Service, bound_to: bytes, *, uid: int = 0, cgroup: Path | None = None) -> Fetched:
    return fetch_as(service.daemon.runtime_dir / "credentials.sock", bound_to, uid=uid, cgroup=cgroup)


@pytest.mark.parametrize("where", ["telegram", "below"])
def test_root_in_the_units_cgroup_and_with_its_name_gets_the_secret(
    service: Service, units: dict[str, Path], where: str
) -> None:
    assert ask(service, address(), cgroup=units[where]) == GIVEN
    entry = service.must("audit")["entries"][-1]
    assert entry.items() >= {"unit": "telegram.service", "uid": 0, "secret": "TOKEN"}.items()


def test_root_elsewhere_does_not(service: Service, units: dict[str, Path]) -> None:
    assert ask(service, address()).refused
    assert ask(service, address(), cgroup=units["weather"]).refused
    assert ask(service, address("weather.service", "TOKEN"), cgroup=units["weather"]).refused
    assert ask(service, address("weather.service", "OTHER"), cgroup=units["telegram"]).refused
    assert ask(service, b"", cgroup=units["telegram"]).refused
    log = service.daemon.log.read_text()
    assert "a process in weather.service asks for a credential of telegram.service" in log
    assert VALUE not in log


def test_others_do_not_even_come_in(service: Service) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ask(service, address(), uid=SPARE_UID)
    assert "PermissionError" in caught.value.stderr


def test_others_are_refused_where_they_do_come_in(service: Service, units: dict[str, Path]) -> None:
    path = service.daemon.runtime_dir / "credentials.sock"
    path.chmod(0o666)
    try:
        assert ask(service, address(), uid=SPARE_UID, cgroup=units["telegram"]).refused
        assert ask(service, address(), uid=SPARE_UID).refused
    finally:
        path.chmod(0o600)
    assert f"uid {SPARE_UID} asks for a credential of telegram.service" in service.daemon.log.read_text()
    assert ask(service, address(), cgroup=units["telegram"]) == GIVEN
