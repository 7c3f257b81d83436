"""nip46: which answers are believed, when an error is, and that nothing that strangers send changes anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip46 import GRACE, KIND, MAX_ERROR, REPEAT, REPEAT_SOON, Answer, Request, Signer
from avault_protocol import DeniedError, LockedError
from support.clock import Clock
from support.signers import NOW, FakeSigner
from support.slots import filled

TOKEN = "0123456789abcdef" * 4
ARENA = Arena(1 << 16)
CLIENT = SecretKey.generate(ARENA)
PHONE = FakeSigner(ARENA, CLIENT.public)
STRANGER = FakeSigner(ARENA, CLIENT.public, "33" * 32)


@pytest.fixture
def signer() -> Iterator[Signer]:
    """A proven signer; nothing of it may stay in the arena."""
    before = ARENA.in_use
    made = Signer(ARENA, CLIENT, PHONE.public, clock=Clock(NOW))
    yield made
    made.close()
    assert ARENA.in_use == before


@pytest.fixture
def unproven() -> Iterator[Signer]:
    before = ARENA.in_use
    made = Signer(ARENA, CLIENT, clock=Clock(NOW))
    yield made
    made.close()
    assert ARENA.in_use == before


def outcome(request: Request, now: float = 0.0) -> str:
    answer = request.outcome(now)
    assert answer is not None
    with answer:
        return answer.text


def tokens(answer: Answer | None) -> list[str]:
    assert answer is not None
    with answer:
        return [bytes(token.view).hex() for token in answer.tokens]


# --- requests -------------------------------------------------------------------------------------------------------


def test_the_form_of_requests(signer: Signer) -> None:
    peer = bytes.fromhex("ab" * 32)
    for request, method, params in [
        (
            signer.connect("s3cret", "my host"),
            "connect",
            [PHONE.public.hex(), "s3cret", "", '{"name":"avault my-host"}'],
        ),
        (signer.connect(None, "h"), "connect", [PHONE.public.hex(), "", "", '{"name":"avault h"}']),
        (signer.get_public_key(), "get_public_key", []),
        (signer.nip44_decrypt(peer, "payload"), "nip44_decrypt", ["ab" * 32, "payload"]),
        (signer.ping(), "ping", []),
        (signer.logout(), "logout", []),
    ]:
        event = signer.event(request)
        assert (event.kind, event.pubkey, event.created_at) == (KIND, CLIENT.public.hex(), NOW)
        assert PHONE.read(event) == {"id": request.id, "method": method, "params": params}


def test_an_id_is_16_random_bytes_and_stays() -> None:
    with_chance = Signer(
        ARENA, CLIENT, PHONE.public, clock=(clock := Clock(NOW)), chance=lambda n: b"\x5a" * n
    )
    request = with_chance.ping()
    assert request.id == "5a" * 16
    first = with_chance.event(request)
    clock.now += 15
    second = with_chance.event(request)
    assert (first.id != second.id, second.created_at) == (True, NOW + 15)
    assert PHONE.read(first) == PHONE.read(second)
    with_chance.close()
    once = Signer(ARENA, CLIENT, PHONE.public)
    assert len({once.ping().id for _ in range(100)}) == 100
    once.close()


def test_when_it_is_sent_again(signer: Signer) -> None:
    """What nobody is asked about may be repeated sooner."""
    soon = [signer.ping(), signer.get_public_key(), signer.connect(None, "h"), signer.logout()]
    for request, repeat in (
        *((one, REPEAT_SOON) for one in soon),
        (signer.nip44_decrypt(PHONE.public, "x"), REPEAT),
    ):
        assert request.is_due(0.0)
        request.sent(0.0)
        assert request.next_at() == repeat
        assert not request.is_due(repeat - 0.01)
        assert request.is_due(repeat)


def test_nothing_is_asked_of_an_unknown_signer(unproven: Signer) -> None:
    for ask in (unproven.ping, unproven.get_public_key, unproven.logout, lambda: unproven.connect(None, "h")):
        with pytest.raises(ValueError, match="not known"):
            ask()


def test_a_wiped_arena_sends_and_takes_nothing() -> None:
    arena = Arena()
    client = SecretKey.generate(arena)
    phone = FakeSigner(ARENA, client.public)
    signer = Signer(arena, client, phone.public)
    request = signer.ping()
    arena.wipe()
    with pytest.raises(LockedError):
        signer.event(request)
    assert signer.receive(phone.answer(request.id, "pong"), 0.0) is None
    assert signer.dropped == {"locked": 1}
    signer.close()
    client.close()
    phone.close()


# --- good answers ---------------------------------------------------------------------------------------------------


def test_a_secret_text_is_masked(signer: Signer) -> None:
    request = signer.nip44_decrypt(PHONE.public, "x")
    assert signer.receive(PHONE.answer(request.id, f"avault unlock h {TOKEN}"), 0.0) is request
    assert request.answer is not None
    assert request.answer.text == f"avault unlock h {'0' * 64}"
    assert TOKEN not in repr(request.answer)
    assert tokens(request.outcome(0.0)) == [TOKEN]
    assert request.outcome(0.0) is None


def test_what_is_no_secret_is_not_masked(signer: Signer) -> None:
    request = signer.get_public_key()
    signer.receive(PHONE.answer(request.id, TOKEN), 0.0)
    assert outcome(request) == TOKEN


@pytest.mark.parametrize("said", ["ack", "s3cret", TOKEN])
def test_connect_takes_ack_and_the_own_secret(signer: Signer, said: str) -> None:
    request = signer.connect(TOKEN if said == TOKEN else "s3cret", "h")
    assert signer.receive(PHONE.answer(request.id, said), 0.0) is request
    assert outcome(request) == said


def test_answers_go_to_their_requests(signer: Signer) -> None:
    first, second = signer.ping(), signer.get_public_key()
    assert signer.receive(PHONE.answer(second.id, TOKEN), 0.0) is second
    assert signer.receive(PHONE.answer(first.id, "pong"), 0.0) is first
    assert (outcome(first), outcome(second)) == ("pong", TOKEN)


def test_the_first_good_answer_counts(signer: Signer) -> None:
    request = signer.nip44_decrypt(PHONE.public, "x")
    signer.receive(PHONE.answer(request.id, "first"), 0.0)
    assert signer.receive(PHONE.answer(request.id, "second"), 0.0) is None
    assert outcome(request) == "first"


def test_the_same_event_counts_once(signer: Signer) -> None:
    request = signer.nip44_decrypt(PHONE.public, "x")
    event = PHONE.answer(request.id, error="no")
    assert signer.receive(event, 0.0) is request
    assert signer.receive(event, 0.0) is None
    assert signer.dropped == {"seen before, or not signed": 1}


def test_a_forged_copy_does_not_suppress_the_true_event(signer: Signer) -> None:
    request = signer.ping()
    true = PHONE.answer(request.id, "pong")
    forged = Event(true.id, true.pubkey, true.created_at, true.kind, true.tags, "other", true.sig)
    assert signer.receive(forged, 0.0) is None
    assert signer.receive(true, 0.0) is request


def test_memory_of_events_is_bounded(signer: Signer) -> None:
    request = signer.ping()
    for index in range(300):
        signer.receive(PHONE.answer(request.id, error=str(index)), 0.0)
    assert len(signer._seen) == 256  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("late", [-3 * 86400, 0, 7200])
def test_a_wrong_stamp_is_measured_and_the_answer_taken(signer: Signer, late: int) -> None:
    request = signer.ping()
    assert signer.receive(PHONE.answer(request.id, "pong", at=NOW + late), 0.0) is request
    assert signer.skew == late


def test_an_answer_that_nobody_took_is_wiped(signer: Signer) -> None:
    request = signer.nip44_decrypt(PHONE.public, "x")
    signer.receive(PHONE.answer(request.id, TOKEN), 0.0)
    answer = request.answer
    signer.close_request(request)
    assert answer is not None
    with pytest.raises(ValueError, match="released"):
        bytes(answer.tokens[0].view)
    signer.close_request(request)
    assert signer.receive(PHONE.answer(request.id, TOKEN), 0.0) is None


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["", "error", None, 42])
def test_an_error_is_believed_after_the_grace(signer: Signer, result: object) -> None:
    request = signer.nip44_decrypt(PHONE.public, "x")
    request.sent(5.0)
    assert signer.receive(PHONE.answer(request.id, result, "user rejected"), 5.0) is request
    assert request.next_at() == 5.0 + GRACE
    assert request.outcome(5.0 + GRACE - 0.01) is None
    with pytest.raises(DeniedError, match="user rejected"):
        request.outcome(5.0 + GRACE)


def test_a_good_answer_within_the_grace_is_better(signer: Signer) -> None:
    request = signer.ping()
    signer.receive(PHONE.answer(request.id, "", "Unauthorized"), 0.0)
    signer.receive(PHONE.answer(request.id, "pong"), GRACE)
    assert outcome(request, GRACE) == "pong"


def test_the_first_error_is_the_one(signer: Signer) -> None:
    request = signer.ping()
    signer.receive(PHONE.answer(request.id, error="one"), 0.0)
    signer.receive(PHONE.answer(request.id, error="two"), 2.0)
    with pytest.raises(DeniedError, match="one"):
        request.outcome(GRACE)


@pytest.mark.parametrize(
    ("error", "shown"),
    [("\x1b[31m" + TOKEN, "?[31m" + "0" * 64), ({"a": 1}, "an error"), ("x" * 999, "x" * MAX_ERROR)],
)
def test_an_error_is_shown_without_secrets_and_tricks(signer: Signer, error: object, shown: str) -> None:
    request = signer.ping()
    signer.receive(PHONE.answer(request.id, error=error), 0.0)
    with pytest.raises(DeniedError) as caught:
        request.outcome(GRACE)
    assert caught.value.message == f"the signer answers: {shown}"


@pytest.mark.parametrize("error", ["", None, 0, False])
def test_an_empty_error_is_none(signer: Signer, error: object) -> None:
    request = signer.ping()
    signer.receive(PHONE.say(json.dumps({"id": request.id, "result": "pong", "error": error})), 0.0)
    assert outcome(request) == "pong"


# --- auth_url -------------------------------------------------------------------------------------------------------


def test_auth_url_may_come_again_and_the_answer_after_it(signer: Signer) -> None:
    request = signer.connect(None, "h")
    for url in ("https://a.example/1", "https://a.example/2", f"https://a.example/?reqId={TOKEN}"):
        assert signer.receive(PHONE.answer(request.id, "auth_url", url), 0.0) is request
        assert request.auth_url == url
        assert request.outcome(GRACE * 2) is None
    signer.receive(PHONE.answer(request.id, "ack"), 60.0)
    assert outcome(request) == "ack"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "https://a\x07b", "", None, 5])
def test_auth_url_that_is_none(signer: Signer, url: object) -> None:
    request = signer.ping()
    assert (
        signer.receive(PHONE.say(json.dumps({"id": request.id, "result": "auth_url", "error": url})), 0.0)
        is None
    )
    assert request.auth_url is None
    assert request.outcome(GRACE * 2) is None


# --- what is dropped ------------------------------------------------------------------------------------------------


def unbelievable(number: str) -> dict[str, Event]:
    good = PHONE.answer(number, "pong")
    return {
        "stranger": STRANGER.answer(number, "pong"),
        "another id": PHONE.answer("5a" * 16, "pong"),
        "no id": PHONE.answer("", "pong"),
        "half an id": PHONE.answer(number[:31], "pong"),
        "upper case": PHONE.answer(number.upper() if number.upper() != number else number + "A", "pong"),
        "surrogate": PHONE.say('{"id":"\\ud800","result":"pong"}'),
        "id is a number": PHONE.say('{"id":5,"result":"pong"}'),
        "wrong result": PHONE.answer(number, "pang"),
        "empty": PHONE.answer(number, ""),
        "null": PHONE.answer(number, None),
        "number": PHONE.answer(number, 42),
        "object": PHONE.answer(number, {"plaintext": "pong"}),
        "nothing": PHONE.say(json.dumps({"id": number})),
        "list": PHONE.say("[]"),
        "text": PHONE.say('"pong"'),
        "no JSON": PHONE.say("{not json"),
        "not NIP-44": PHONE.wrap("bm90IG5pcC00NA=="),
        "no base64": PHONE.wrap("?iv=x"),
        "bad MAC": PHONE.wrap(good.content[:60] + ("A" if good.content[60] != "A" else "B") + good.content[61:]),
        "for another": PHONE.say(json.dumps({"id": number, "result": "pong"}), tags=(("p", PHONE.public.hex()),)),
        "for nobody": PHONE.say(json.dumps({"id": number, "result": "pong"}), tags=()),
        "another kind": PHONE.say(json.dumps({"id": number, "result": "pong"}), kind=4),
        "not signed": Event(good.id, good.pubkey, good.created_at, KIND, good.tags, good.content, "00" * 64),
        "changed": Event(good.id, good.pubkey, good.created_at + 1, KIND, good.tags, good.content, good.sig),
        "in another's name": Event(good.id, PHONE.public.hex(), NOW, KIND, good.tags, STRANGER.answer(number, "pong").content, good.sig),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(unbelievable("ab" * 16)))
def test_nothing_else_changes_anything(signer: Signer, name: str) -> None:
    request = signer.ping()
    event = unbelievable(request.id)[name]
    assert signer.receive(event, 0.0) is None
    assert signer.dropped.total() == 1
    assert request.outcome(GRACE) is None
    # And what is good is good after that.
    assert signer.receive(PHONE.answer(request.id, "pong"), 0.0) is request
    assert outcome(request) == "pong"


def test_the_tag_may_carry_more(signer: Signer) -> None:
    request = signer.ping()
    tags = (("alt", "x"), ("p", CLIENT.public.hex(), "wss://relay"))
    assert (
        signer.receive(PHONE.say(json.dumps({"id": request.id, "result": "pong"}), tags=tags), 0.0) is request
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["ab" * 16, "auth_url", "https://a.b", TOKEN]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["id", "result", "error"]) | st.text(), inner)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    message=JSON | st.fixed_dictionaries({"id": st.just("ab" * 16), "result": JSON}, optional={"error": JSON})
)
@example(message={"id": "ab" * 16, "result": "pong"})
def test_whatever_the_signer_says(message: Any) -> None:
    before = ARENA.in_use
    signer = Signer(ARENA, CLIENT, PHONE.public, clock=Clock(NOW), chance=lambda n: b"\xab" * n)
    request = signer.ping()
    changed = signer.receive(PHONE.say(json.dumps(message)), 0.0)
    answered = request.answer is not None
    fields = cast("dict[str, Any]", message if isinstance(message, dict) else {})
    assert answered == (
        fields.get("id") == request.id and fields.get("result") == "pong" and not fields.get("error")
    )
    assert (changed is request) or not (answered or request.auth_url)
    signer.close()
    assert ARENA.in_use == before


@given(plain=st.binary(min_size=1, max_size=200))
def test_whatever_is_encrypted(plain: bytes) -> None:
    before = ARENA.in_use
    signer = Signer(ARENA, CLIENT, PHONE.public, clock=Clock(NOW))
    signer.ping()
    with filled(ARENA, plain) as slot:
        event = PHONE.wrap(PHONE.conversation.encrypt(slot))
    assert signer.receive(event, 0.0) is None
    signer.close()
    assert ARENA.in_use == before


# --- pairing by nostrconnect:// -------------------------------------------------------------------------------------


def test_who_says_the_secret_is_the_signer(unproven: Signer) -> None:
    request = unproven.pairing("cafe" * 8)
    assert unproven.receive(PHONE.answer("anything", "cafe" * 8), 0.0) is request
    assert unproven.public == PHONE.public
    assert outcome(request) == "cafe" * 8
    ping = unproven.ping()
    assert PHONE.read(unproven.event(ping))["id"] == ping.id
    assert unproven.receive(PHONE.answer(ping.id, "pong"), 0.0) is ping


@pytest.mark.parametrize("said", ["ack", "", "cafe" * 7, "cafe" * 8 + " ", "CAFE" * 8, None, 42, "auth_url"])
def test_nothing_but_the_secret_pairs(unproven: Signer, said: object) -> None:
    request = unproven.pairing("cafe" * 8)
    for error in (None, "https://evil.example/"):
        assert unproven.receive(STRANGER.answer("", said, error), 0.0) is None
    assert unproven.public is None
    assert request.auth_url is None
    assert request.outcome(GRACE * 2) is None
    # The true one is not kept out by that.
    assert unproven.receive(PHONE.answer("x", "cafe" * 8), 0.0) is request
    assert unproven.public == PHONE.public


def test_the_first_with_the_secret_stays_the_signer(unproven: Signer) -> None:
    request = unproven.pairing("cafe" * 8)
    unproven.receive(PHONE.answer("x", "cafe" * 8), 0.0)
    assert unproven.receive(STRANGER.answer("x", "cafe" * 8), 0.0) is None
    assert unproven.public == PHONE.public
    assert outcome(request) == "cafe" * 8


def test_a_stranger_without_a_pairing(unproven: Signer) -> None:
    assert unproven.receive(STRANGER.answer("x", "ack"), 0.0) is None
    assert unproven.public is None
    assert unproven.dropped == {"a stranger without the secret": 1}
