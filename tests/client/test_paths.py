"""Where the sockets are looked for, and whom a passphrase may be sent to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from avault_client import DaemonUnavailableError, DeniedError
from avault_client._paths import (
    SYSTEM_DIRECTORY,
    agent_socket,
    check_server,
    operator_socket,
    runtime_directory,
    server_uid,
    trusted_uids,
)


def test_an_argument_beats_everything() -> None:
    environ = {"AVAULT_SOCKET": "/s", "AVAULT_RUNTIME_DIR": "/r"}
    assert agent_socket("/given", environ) == "/given"
    assert operator_socket("/given", environ) == "/given"


def test_avault_socket_names_the_agents_socket_only() -> None:
    """An agent's environment may name the socket of that agent; the operator's is never found by it."""
    environ = {"AVAULT_SOCKET": "/s", "AVAULT_RUNTIME_DIR": "/r"}
    assert agent_socket(None, environ) == "/s"
    assert operator_socket(None, environ) == "/r/operator.sock"


def test_the_runtime_directory_holds_both() -> None:
    environ = {"AVAULT_RUNTIME_DIR": "/r", "XDG_RUNTIME_DIR": "/x"}
    assert agent_socket(None, environ) == "/r/agent.sock"


def test_the_users_directory_is_taken_if_it_is_there(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    system = tmp_path / "system"
    system.mkdir()
    assert runtime_directory(environ, str(system)) == str(system)
    (tmp_path / "avault").mkdir()
    assert runtime_directory(environ, str(system)) == f"{tmp_path}/avault"


def test_without_a_session_the_system_service_is_meant(tmp_path: Path) -> None:
    assert runtime_directory({}, str(tmp_path)) == str(tmp_path)
    assert runtime_directory({"XDG_RUNTIME_DIR": ""}, str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("environ", "named"),
    [({}, "XDG_RUNTIME_DIR is not set"), ({"XDG_RUNTIME_DIR": "/nowhere"}, "/nowhere/avault")],
)
def test_the_error_says_where_it_looked(environ: dict[str, str], named: str, tmp_path: Path) -> None:
    system = f"{tmp_path}/absent"
    with pytest.raises(DaemonUnavailableError) as caught:
        runtime_directory(environ, system)
    assert named in caught.value.message
    assert system in caught.value.message
    assert caught.value.hint == "start it with: avaultd"


def test_a_server_of_our_own_uid_gets_a_passphrase() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert server_uid(ours) == os.geteuid()
        check_server(ours, "/tmp/x/operator.sock")


def test_a_server_of_another_uid_does_not() -> None:
    class Foreign:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            return (1).to_bytes(4, "little") + (54321).to_bytes(4, "little") + bytes(4)

    with pytest.raises(DeniedError, match=r"/tmp/x/operator\.sock runs as uid 54321") as caught:
        check_server(Foreign(), "/tmp/x/operator.sock")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.hint is not None


def test_the_system_service_is_root_or_avault_and_not_the_caller() -> None:
    def uid_of(name: str) -> int:
        assert name == "avault"
        return 777

    def nobody(name: str) -> int:
        raise KeyError(name)

    assert trusted_uids(f"{SYSTEM_DIRECTORY}/operator.sock", own=1000, uid_of=uid_of) == {0, 777}
    assert trusted_uids(f"{SYSTEM_DIRECTORY}/operator.sock", own=1000, uid_of=nobody) == {0}


def test_elsewhere_only_the_caller_is_trusted() -> None:
    for path in ("/run/user/1000/avault/operator.sock", "/run/avault-of-mallory/operator.sock"):
        assert trusted_uids(path, own=1000) == {1000}


def test_a_path_that_only_looks_like_the_system_services_is_not(tmp_path: Path) -> None:
    assert trusted_uids(f"{SYSTEM_DIRECTORY}/..{tmp_path}/operator.sock", own=1000) == {1000}
