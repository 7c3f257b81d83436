"""Whatever the other side answers: an error that says what, soon, without a value in it; and the next call works."""

from __future__ import annotations

import gc
import threading
import traceback
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from avault_client import AvaultError, BadRequestError, DaemonUnavailableError, TooLargeError, Vault
from avault_client._conversation import Conversation
from avault_client._lines import Lines
from avault_client._profile import Profile
from avault_client._question import Question
from avault_protocol import limits, pack_notification, pack_request, pack_response
from support.background import WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault_protocol import Request
    from support.peer import Line, Peer

PLANT = b"planted-hunter2"
KNOWN: dict[str, object] = {"name": "A", "version": 1, "encoding": "text"}


def planted(id: int, **known: object) -> bytes:
    return pack_response(id, {**KNOWN, **known}, len(PLANT)) + PLANT


def no_list(id: int) -> bytes:
    return pack_response(id, {"granted": "A", "waiting": []})


HOSTILE: dict[str, tuple[Callable[[int], bytes], type[AvaultError], str]] = {
    "another id": (lambda id: planted(id + 1), BadRequestError, "not open"),
    "id 0": (lambda id: planted(0), BadRequestError, "not open"),
    "no value": (lambda id: pack_response(id, KNOWN), BadRequestError, "sent no value"),
    "another secret": (lambda id: planted(id, name="B"), BadRequestError, "something else than secret A"),
    "no version": (lambda id: planted(id, version="x"), BadRequestError, "something else than secret A"),
    "no encoding": (lambda id: planted(id, encoding="rot13"), BadRequestError, "something else"),
    "half a head": (lambda id: planted(id)[:5], DaemonUnavailableError, "closed the connection"),
    "half a value": (lambda id: planted(id)[:-1], DaemonUnavailableError, "closed the connection"),
    "nothing": (lambda id: b"", DaemonUnavailableError, "closed the connection"),
    "a request": (lambda id: pack_request(id, "status", {}), BadRequestError, "sent a request"),
    "noise": (lambda id: b"\xc1" + PLANT, BadRequestError, "not MessagePack"),
    "a value too large": (
        lambda id: pack_response(id, KNOWN, limits.MAX_VALUE + 1) + PLANT,
        TooLargeError,
        "limit",
    ),
    "an error that is no map": (lambda id: b"\x94\x01" + bytes([id]) + b"\x01\xc0", AvaultError, "no map"),
    "an unknown error": (
        lambda id: b"\x94\x01" + bytes([id]) + b"\x82\xa4code\xa1x\xa7message\xa1m\xc0",
        AvaultError,
        "unknown error",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_broken_answer_is_an_error_without_the_value(peer: Peer, what: str) -> None:
    answer, kind, said = HOSTILE[what]

    def misbehave(line: Line, request: Request) -> None:
        line.send(answer(request.id))
        line.hang_up()

    peer.handlers["get_secret"] = misbehave
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        with pytest.raises(kind, match=said) as caught:
            vault.get_secret("A")
        told = (
            "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.args)
        )
        assert PLANT.decode() not in told
        assert not in_buffers(PLANT)
        del peer.handlers["get_secret"]
        assert vault.get_secret("A").reveal() == "the value of A"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("grants", planted),
        ("request", planted),
        ("grants", no_list),
    ],
)
def test_other_methods_take_no_value_and_no_nonsense(
    peer: Peer, method: str, answer: Callable[[int], bytes]
) -> None:
    peer.handlers[method] = lambda line, request: line.send(answer(request.id))
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        with pytest.raises(BadRequestError):
            vault.grants() if method == "grants" else vault.request("C")
        assert not in_buffers(PLANT)


def test_a_silent_daemon_is_given_up(peer: Peer) -> None:
    peer.handlers["get_secret"] = lambda line, request: None
    with (
        Vault(plugin="p", secrets=["A"], socket=peer.path, timeout=0.05) as vault,
        pytest.raises(DaemonUnavailableError, match=r"did not answer within 0\.05 s"),
    ):
        vault.get_secret("A")


def test_a_daemon_that_only_ever_tells_is_given_up(peer: Peer) -> None:
    """Each notification arrives in time; the answer does not."""

    def chatter(line: Line, request: Request) -> None:
        while True:
            line.send(pack_notification("unlocked", {}))

    peer.handlers["get_secret"] = chatter
    with (
        Vault(plugin="p", secrets=["A"], socket=peer.path, timeout=0.05) as vault,
        pytest.raises(DaemonUnavailableError, match="did not answer"),
    ):
        vault.get_secret("A")


def test_an_answer_too_late_is_not_the_next_ones(peer: Peer) -> None:
    too_late = threading.Event()
    refused: list[OSError] = []

    def late(line: Line, request: Request) -> None:
        assert too_late.wait(WITHIN)
        try:
            line.send(planted(request.id))
        except OSError as error:
            refused.append(error)

    profile = Profile("p", ["A", "B"], agent=None, socket=peer.path, wait=None, timeout=WITHIN)
    with closing(Lines(profile)) as lines:
        lines.call(Question("grants", {}))
        peer.handlers["get_secret"] = late
        profile.timeout = 0.01
        with pytest.raises(DaemonUnavailableError, match="did not answer"):
            lines.call(Question("get_secret", {"name": "A"}))
        profile.timeout = WITHIN
        del peer.handlers["get_secret"]
        too_late.set()
        assert lines.call(Question("get_secret", {"name": "B"})).value == bytearray(b"the value of B")
    peer.stop()
    assert [type(error) for error in refused] == [BrokenPipeError]


def test_nothing_of_a_value_stays_in_a_buffer_once_it_was_taken_out(peer: Peer) -> None:
    with Vault(plugin="p", secrets=["A"], socket=peer.path) as vault:
        secret = vault.get_secret("A")
        assert secret.reveal() == "the value of A"
        assert not in_buffers(b"the value")


def in_buffers(plant: bytes) -> bool:
    """Report whether a receive buffer of this process holds *plant*."""
    conversations = [thing for thing in gc.get_objects() if type(thing) is Conversation]
    return any(plant in conversation.buffer for conversation in conversations)
