"""One machine for all tests of this folder, with the checkout's avault on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support.host import Host, Unavailable, machine
from support.units import Installed, install_system, install_user

_numbers = itertools.count()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    try:
        with machine(tmp_path_factory.mktemp("host")) as host:
            yield host
    except Unavailable as why:
        pytest.skip(str(why))


def fresh_user() -> str:
    """Return the name of a user that is not there yet."""
    return f"user{next(_numbers)}"


@pytest.fixture
def user_service(host: Host) -> Iterator[Installed]:
    installed = install_user(host, fresh_user())
    yield installed
    installed.desk.die()
    host.run("loginctl", "disable-linger", installed.desk_user)
    host.run("systemctl", "stop", f"user@{installed.uid}.service")


@pytest.fixture
def system_service(host: Host) -> Iterator[Installed]:
    installed = install_system(host, fresh_user())
    yield installed
    installed.desk.die()
    installed.remove()


@pytest.fixture(params=["user", "system"])
def service(request: pytest.FixtureRequest) -> Installed:
    """Either, its sockets listening and nothing running."""
    installed: Installed = request.getfixturevalue(f"{request.param}_service")
    return installed
