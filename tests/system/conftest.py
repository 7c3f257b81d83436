"""One machine for all tests of this folder, with the checkout's avault on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.host import Host, Unavailable, machine


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    try:
        with machine(tmp_path_factory.mktemp("host")) as host:
            yield host
    except Unavailable as why:
        pytest.skip(str(why))
