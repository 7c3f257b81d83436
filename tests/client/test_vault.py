"""The blocking client against a real socket."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from avault_client import (
    AlreadyBoundError,
    AuditFailedError,
    BadRequestError,
    DaemonUnavailableError,
    LockedError,
    NotGrantedError,
    UninitializedError,
    UnknownAgentError,
    Vault,
)
from avault_protocol import limits
from support.background import Background
from support.peer import params_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from avault_protocol import AvaultError, Request
    from support.peer import Line, Peer


@pytest.fixture
def vault(peer: Peer) -> Iterator[Vault]:
    with Vault(plugin="telegram", secrets=["A", "B"], socket=peer.path) as opened:
        yield opened


def value(vault: Vault, name: str = "A", wait: float | None = None) -> str:
    with vault.get_secret(name, wait=wait) as secret:
        return secret.reveal()


# --- the first use -------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_first_use(peer: Peer, vault: Vault) -> None:
    assert peer.asked == []
    assert value(vault) == "the value of A"
    hello = {"protocol": 1, "plugin": "telegram", "secrets": ["A", "B"]}
    assert peer.asked == [(1, "hello", hello), (1, "get_secret", {"name": "A"})]


def test_a_secret_says_its_name_and_version(peer: Peer, vault: Vault) -> None:
    peer.put("A", b"newer")
    with vault.get_secret("A") as secret:
        assert (secret.name, secret.version, secret.encoding) == ("A", 2, "text")


def test_nothing_is_cached(peer: Peer, vault: Vault) -> None:
    assert value(vault) == "the value of A"
    peer.put("A", b"newer")
    assert value(vault) == "newer"
    peer.granted.remove("A")
    with pytest.raises(NotGrantedError):
        vault.get_secret("A")
    assert peer.count("hello") == 1


def test_bytes_arrive_as_bytes(peer: Peer, vault: Vault) -> None:
    peer.put("B", b"AP8Q", "base64")
    with vault.get_secret("B") as secret:
        assert secret.reveal_bytes() == b"\x00\xff\x10"


@pytest.mark.parametrize("size", [1, limits.MAX_VALUE])
def test_values_of_every_size_arrive_whole(peer: Peer, vault: Vault, size: int) -> None:
    peer.put("A", b"v" * size)
    assert value(vault) == "v" * size


def test_the_agent_is_named_by_argument_or_environment(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_AGENT", "from-environment")
    for agent in (None, "given"):
        with Vault(plugin="p", agent=agent, socket=peer.path) as vault:
            vault.grants()
    assert [params["agent"] for _, method, params in peer.asked if method == "hello"] == [
        "from-environment",
        "given",
    ]


def test_the_socket_is_found_by_the_environment(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_SOCKET", peer.path)
    with Vault(plugin="p", secrets=["A"]) as vault:
        assert value(vault) == "the value of A"


# --- wrong use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "secrets"),
    [("Telegram", ["A"]), ("", ["A"]), ("p", ["1A"]), ("p", ["A", "A"]), ("p", ["A "]), ("p", [["A"]])],
)
def test_names_outside_the_grammar_are_refused_at_once(plugin: str, secrets: Any) -> None:
    with pytest.raises(BadRequestError):
        Vault(plugin=plugin, secrets=secrets)


@pytest.mark.parametrize("count", [limits.MAX_DECLARED, limits.MAX_DECLARED + 1])
def test_a_plugin_declares_no_more_than_the_limit(count: int) -> None:
    names = [f"S{number}" for number in range(count)]
    if count <= limits.MAX_DECLARED:
        assert Vault(plugin="p", secrets=names).secrets == tuple(names)
    else:
        with pytest.raises(BadRequestError):
            Vault(plugin="p", secrets=names)


def test_one_name_in_the_place_of_a_list_is_not_taken_for_letters() -> None:
    with pytest.raises(TypeError, match="a list of names"):
        Vault(plugin="p", secrets="ABC")


@pytest.mark.parametrize("wait", [-1.0, limits.MAX_WAIT + 1, float("nan"), float("inf")])
def test_a_wait_that_is_no_time_is_refused(wait: float, vault: Vault) -> None:
    with pytest.raises(BadRequestError, match="wait"):
        Vault(plugin="p", wait=wait)
    with pytest.raises(BadRequestError, match="wait"):
        vault.get_secret("A", wait=wait)


@pytest.mark.parametrize("timeout", [0.0, -1.0, limits.MAX_WAIT + 1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    """To the kernel 0 would be for ever."""
    with pytest.raises(BadRequestError, match="timeout"):
        Vault(plugin="p", timeout=timeout)


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_avault_wait_that_is_no_time_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_WAIT", text)
    with pytest.raises(BadRequestError, match=r"^AVAULT_WAIT: not a number of seconds"):
        Vault(plugin="p")


def test_a_closed_vault_says_so_and_closes_twice(vault: Vault) -> None:
    value(vault)
    vault.close()
    vault.close()
    for call in (vault.grants, lambda: vault.get_secret("A"), lambda: vault.request("C")):
        with pytest.raises(ValueError, match="the vault is closed"):
            call()


def test_closing_what_was_never_used_does_nothing(peer: Peer) -> None:
    Vault(plugin="p", socket=peer.path).close()
    assert peer.asked == []


def test_a_vault_shows_no_values_and_is_not_pickled(vault: Vault) -> None:
    value(vault)
    assert repr(vault) == "Vault(plugin='telegram', secrets=['A', 'B'])"
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps(vault)


# --- what the daemon refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hello", "get_secret"])
@pytest.mark.parametrize(
    "error", [UnknownAgentError, AlreadyBoundError, UninitializedError, NotGrantedError, AuditFailedError]
)
def test_the_daemons_errors_are_raised_as_they_are_and_the_next_call_works(
    peer: Peer, vault: Vault, method: str, error: type[AvaultError]
) -> None:
    def refuse(line: Line, request: Request) -> None:
        raise error("said by the daemon", hint="do this")

    peer.handlers[method] = refuse
    with pytest.raises(error, match="said by the daemon") as caught:
        vault.get_secret("A")
    assert caught.value.hint == "do this"
    del peer.handlers[method]
    assert value(vault) == "the value of A"


def test_no_daemon_is_said_with_the_path(tmp_path: Path) -> None:
    with (
        Vault(plugin="p", socket=f"{tmp_path}/agent.sock") as vault,
        pytest.raises(DaemonUnavailableError, match=r"agent\.sock: no such file"),
    ):
        vault.get_secret("A")


def test_a_path_too_long_for_a_socket_is_no_crash(tmp_path: Path) -> None:
    with (
        Vault(plugin="p", socket=f"{tmp_path}/{'x' * 120}") as vault,
        pytest.raises(DaemonUnavailableError, match="path too long"),
    ):
        vault.get_secret("A")


# --- requests and grants -------------------------------------------------------------------------------------------


def test_a_request_declares_for_this_connection_and_the_next(peer: Peer, vault: Vault) -> None:
    peer.put("C", b"the value of C")
    with pytest.raises(NotGrantedError):
        vault.get_secret("C")
    assert vault.request("C", "to send mail") is True
    assert value(vault, "C") == "the value of C"
    assert vault.secrets == ("A", "B", "C")
    peer.restart()
    assert value(vault, "C") == "the value of C"
    assert peer.asked[-2][2]["secrets"] == ["A", "B", "C"]


def test_a_request_for_what_is_not_granted_says_so(peer: Peer, vault: Vault) -> None:
    assert vault.request("NEW", "why") is False
    assert peer.asked[-1][2] == {"name": "NEW", "reason": "why"}


def test_a_refused_request_declares_nothing(peer: Peer, vault: Vault) -> None:
    with pytest.raises(BadRequestError):
        vault.request("not a name")
    assert vault.secrets == ("A", "B")


def test_grants_tells_what_is_granted_and_what_waits(peer: Peer, vault: Vault) -> None:
    peer.granted.remove("B")
    grants = vault.grants()
    assert grants.granted == {"A"}
    assert grants.waiting == {"B"}
    assert repr(grants) == "Grants(granted=['A'], waiting=['B'])"


# --- a daemon that restarts ----------------------------------------------------------------------------------------


def test_a_restarted_daemon_is_found_again_with_a_new_hello(peer: Peer, vault: Vault) -> None:
    value(vault)
    peer.restart()
    assert value(vault) == "the value of A"
    assert peer.methods() == ["hello", "get_secret", "hello", "get_secret"]


def test_a_request_is_made_twice_at_most(peer: Peer, vault: Vault) -> None:
    value(vault)
    peer.asked.clear()
    peer.handlers["get_secret"] = lambda line, request: line.hang_up()
    with pytest.raises(DaemonUnavailableError, match="closed the connection"):
        vault.get_secret("A")
    assert peer.methods() == ["get_secret", "hello", "get_secret"]


def test_what_the_daemon_said_before_it_hung_up_is_the_error(peer: Peer, vault: Vault) -> None:
    """As where a connection limit is reached: it answers id 0, and closes before it has read anything."""
    peer.refusal = UnknownAgentError("not you")
    with pytest.raises(UnknownAgentError, match="not you"):
        vault.get_secret("A")


def test_a_daemon_that_stays_away_is_an_error(peer: Peer, vault: Vault) -> None:
    value(vault)
    peer.stop()
    with pytest.raises(DaemonUnavailableError):
        vault.get_secret("A")


# --- waiting -------------------------------------------------------------------------------------------------------


def waits_of(peer: Peer) -> list[object]:
    return [params["wait"] for _, _, params in peer.asked if "wait" in params]


def waits(peer: Peer) -> bool:
    return bool(waits_of(peer))


def test_a_locked_vault_is_an_error_unless_one_waits(peer: Peer, vault: Vault) -> None:
    peer.lock()
    with pytest.raises(LockedError):
        vault.get_secret("A")
    assert not waits(peer)


def test_waiting_ends_with_the_unlock(peer: Peer, vault: Vault) -> None:
    peer.lock()
    waiting = Background(lambda: value(vault, wait=60))
    peer.wait_for(lambda: waits(peer))
    peer.unlock()
    assert waiting.result() == "the value of A"


def its_time_is_up(line: Line, request: Request) -> None:
    """Answer as a daemon does, at once or when the time is up; here both are now."""
    raise LockedError


def test_waiting_ends_with_its_time(peer: Peer, vault: Vault) -> None:
    peer.handlers["get_secret"] = its_time_is_up
    with pytest.raises(LockedError):
        vault.get_secret("A", wait=60)
    assert [round(float(str(wait))) for wait in waits_of(peer)] == [60]


def test_the_environment_says_how_long_to_wait(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_WAIT", "70")
    peer.handlers["get_secret"] = its_time_is_up
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault, pytest.raises(LockedError):
        vault.get_secret("A")
    assert [round(float(str(wait))) for wait in waits_of(peer)] == [70]


def test_one_threads_wait_is_not_anothers(peer: Peer, vault: Vault) -> None:
    def locked_for_a(line: Line, request: Request) -> None:
        params = params_of(request)
        if params["name"] == "A" and "wait" not in params:
            raise LockedError
        peer.serve(line, request)

    peer.handlers["get_secret"] = locked_for_a
    peer.lock()
    waiting = Background(lambda: value(vault, "A", wait=60))
    peer.wait_for(lambda: waits(peer))
    assert vault.request("C") is False
    assert not waiting.done()
    peer.unlock()
    assert waiting.result() == "the value of A"


def test_a_wait_outlasts_a_daemon_that_restarts(peer: Peer, vault: Vault) -> None:
    peer.lock()
    waiting = Background(lambda: value(vault, wait=60))
    peer.wait_for(lambda: waits(peer))
    peer.restart()
    peer.unlock()
    assert waiting.result() == "the value of A"


def test_a_wait_outlasts_a_daemon_that_is_not_there_yet(peer: Peer, vault: Vault) -> None:
    peer.handlers["hello"] = lambda line, request: (
        line.hang_up() if peer.count("hello") < 3 else peer.serve(line, request)
    )
    assert value(vault, wait=60) == "the value of A"
    assert peer.count("hello") == 3


def test_a_wait_for_an_absent_daemon_ends_with_its_time(tmp_path: Path) -> None:
    with (
        Vault(plugin="p", secrets=["A"], socket=f"{tmp_path}/agent.sock") as vault,
        pytest.raises(DaemonUnavailableError),
    ):
        vault.get_secret("A", wait=0.01)


def test_closing_ends_anothers_wait(peer: Peer, vault: Vault) -> None:
    peer.lock()
    waiting = Background(lambda: value(vault, wait=60))
    peer.wait_for(lambda: waits(peer))
    vault.close()
    with pytest.raises((DaemonUnavailableError, ValueError)):
        waiting.result()
