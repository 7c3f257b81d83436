"""Beside a few hostile clients of each kind everybody else is served; ``benchmarks/hostile.py`` says how fast."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.attackers import Line, hello
from support.hostile import KINDS, PLUGIN, SECRET, Crowd
from support.services import Service, system_service

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several others")

HERMES = 60002
FEW = 5


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with system_service() as service:
        service.put(**{"TOKEN": "a-token", SECRET: "w" * 32 * 1024})
        service.grant("cobot/telegram", "TOKEN", uids=[0])
        service.grant(f"hermes/{PLUGIN}", SECRET, uids=[HERMES])
        yield service


def greeted(service: Service) -> Line:
    line = Line.to(str(service.agent_socket))
    assert isinstance(line.call("hello", hello()), dict)
    return line


@pytest.mark.parametrize("kind", [*KINDS, "idle"])
def test_beside_a_hostile_crowd_everybody_else_is_served(service: Service, kind: str) -> None:
    kept, before = greeted(service), service.descriptors()
    process = service.daemon.process
    assert process is not None
    with Crowd(kind, FEW, service.agent_socket, HERMES) as crowd:
        for _ in range(6):
            assert kept.call("get_secret", {"name": "TOKEN"}) == "a-token"
            late = greeted(service)
            assert late.call("get_secret", {"name": "TOKEN"}) == "a-token"
            late.close()
            service.put(WEATHER="w" * 32 * 1024)  # which its readers are told of
    assert crowd.acts >= FEW
    assert process.poll() is None
    assert service.settles_at(before)
    assert kept.call("get_secret", {"name": "TOKEN"}) == "a-token"
    kept.close()
