"""nip01: a conversation with a relay, message by message, and whatever a relay may send instead."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from avault_daemon.memory.arena import Arena
from avault_daemon.nostr.event import Event
from avault_daemon.nostr.keys import SecretKey
from avault_daemon.nostr.nip01 import AUTH_KIND, BURST, MAX_ATTEMPTS, RATE, UNIT, Hopeless, Lost, News, Talk
from support.clock import Clock
from support.signers import NOW

KEY = SecretKey.generate(Arena(1 << 16))
URL = "wss://relay.example"
SUB = "avault"


def talk() -> Talk:
    return Talk(URL, KEY, Clock(NOW), 0.0)


def subscribed() -> Talk:
    """Return a conversation whose subscription stands."""
    made = talk()
    say(made, "EOSE", SUB)
    assert made.news == [News("ready")]
    sent(made)
    made.news.clear()
    return made


def event(content: str = "x") -> Event:
    return Event.signed(KEY, NOW, 24133, (("p", "ab" * 32),), content)


def say(to: Talk, *message: object) -> None:
    to.receive(json.dumps(message), 0.0)


def wire(made: Event) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(made.line())
    return fields


def sent(of: Talk) -> list[list[Any]]:
    texts, of.outgoing = of.outgoing, []
    return [json.loads(text) for text in texts]


REQ = ["REQ", SUB, {"kinds": [24133], "#p": [KEY.public.hex()], "limit": 0}]


def test_it_subscribes_first_without_since() -> None:
    made = talk()
    assert sent(made) == [REQ]
    say(made, "EOSE", "another")
    assert made.news == []
    say(made, "EOSE", SUB)
    say(made, "EOSE", SUB)
    assert made.ready
    assert made.news == [News("ready")]


def test_it_goes_on_without_eose() -> None:
    made = talk()
    made.be_ready()
    made.be_ready()
    assert made.news == [News("ready")]


def test_events_in_and_out() -> None:
    made, mine = subscribed(), event()
    made.publish(mine)
    assert sent(made) == [["EVENT", wire(mine)]]
    shuffled: dict[str, object] = dict(reversed(list(mine.to_wire().items()))) | {"seen_on": [URL]}
    say(made, "EVENT", SUB, shuffled)
    say(made, "EVENT", "another", shuffled)
    assert [one for one in made.news if isinstance(one, Event)] == [mine]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"}, {"id": "AB" * 32}, {"sig": None}, {"created_at": 1.5}, {"created_at": True}, {"created_at": -1},
        {"tags": "x"}, {"tags": ["x"]}, {"tags": [["p", 1]]}, {"kind": "24133"}, {"kind": 65536}, {"content": 5},
        {"pubkey": "npub1"},
    ],
)  # fmt: skip
def test_malformed_events_are_passed_over(wrong: dict[str, object]) -> None:
    made = subscribed()
    say(made, "EVENT", SUB, event().to_wire() | wrong)
    assert made.news == []


@pytest.mark.parametrize(
    "text",
    [
        "", "not json", "[]", "{}", '["EVENT"]', '["EVENT","avault",{}]', '["EVENT","avault",null]', '["WHAT",1]', "null",
        '["NOTICE","hello"]', "[null]", '["OK"]', '["OK","x","true",""]', '["OK",5,true,""]', '["CLOSED"]', '["AUTH"]',
        '["EOSE"]', '["CLOSED","another","restricted: x"]', "[" * 100_000, "9" * 5000, '["AUTH",5]', '["OK","unknown",false,"x"]',
    ],
)  # fmt: skip
def test_rubbish_is_passed_over(text: str) -> None:
    made = subscribed()
    made.receive(text, 0.0)
    made.receive(text.encode(), 0.0)
    assert (made.news, made.outgoing) == ([], [])


def test_bytes_that_are_no_text() -> None:
    made = subscribed()
    made.receive(b"\xff\xfe\x00", 0.0)
    assert made.news == []


@pytest.mark.parametrize(
    ("accepted", "words", "news"),
    [
        (True, "", "accepted"), (True, "mute: x", "accepted"), (False, "duplicate: seen", "accepted"),
        (False, "mute: no one was listening to your ephemeral event", "absent"), (False, "no one was listening", "absent"),
        (False, "rate-limited: slow down", "refused"), (False, "invalid: stamp", "refused"), (False, "error: x", "refused"),
        (False, "", "refused"),
    ],
)  # fmt: skip
def test_ok(accepted: bool, words: str, news: str) -> None:
    made, mine = subscribed(), event()
    made.publish(mine)
    say(made, "OK", mine.id, accepted, words)
    assert [one.stage for one in made.news if isinstance(one, News)] == [news]
    say(made, "OK", mine.id, accepted, words)
    assert len(made.news) == 1


def test_ok_with_an_empty_id_is_for_the_oldest() -> None:
    made, first, second = subscribed(), event("1"), event("2")
    made.publish(first)
    made.publish(second)
    say(made, "OK", "", False, "blocked-ish")
    say(made, "OK", second.id, True, "")
    assert made.news == [News("refused", "blocked-ish"), News("accepted")]
    say(made, "OK", "", False, "x")
    assert len(made.news) == 2


def test_events_without_ok_are_not_kept_for_ever() -> None:
    made = subscribed()
    for index in range(10):
        made.publish(event(str(index)))
    assert len(made._sent) == MAX_ATTEMPTS  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("words", ["restricted: not you", "blocked: banned", "pow: 30 bits"])
def test_a_relay_that_does_not_want_us(words: str) -> None:
    made, mine = subscribed(), event()
    made.publish(mine)
    with pytest.raises(Hopeless, match=words):
        say(made, "OK", mine.id, False, words)


@pytest.mark.parametrize("words", ["restricted: x", "blocked: x", "unsupported: x"])
def test_a_subscription_that_is_never_served(words: str) -> None:
    with pytest.raises(Hopeless, match=words):
        say(talk(), "CLOSED", SUB, words)


@pytest.mark.parametrize("words", [["error: shutting down"], ["rate-limited: x"], [], [5]])
def test_a_subscription_that_ends(words: list[object]) -> None:
    with pytest.raises(Lost):
        say(subscribed(), "CLOSED", SUB, *words)


def test_words_are_printable_and_short() -> None:
    made, mine = subscribed(), event()
    made.publish(mine)
    say(made, "OK", mine.id, False, "\x1b[31m" + "x" * 1000)
    assert made.news == [News("refused", "?[31m" + "x" * 195)]


# --- NIP-42 ---------------------------------------------------------------------------------------------------------


def authenticated(made: Talk) -> Event:
    """Return the one AUTH that went out."""
    (message,) = sent(made)
    assert message[0] == "AUTH"
    return Event.from_wire(message[1])


def test_a_challenge_is_answered_with_the_clients_key() -> None:
    made = subscribed()
    say(made, "AUTH", "challenge")
    answer = authenticated(made)
    assert answer.valid_signature()
    assert (answer.kind, answer.pubkey, answer.created_at) == (AUTH_KIND, KEY.public.hex(), NOW)
    assert answer.tags == (("relay", URL), ("challenge", "challenge"))
    say(made, "OK", answer.id, True, "")
    assert (sent(made), made.news) == ([], [])


@pytest.mark.parametrize("when", ["at once", "when accepted"])
def test_a_challenge_that_comes_again_is_answered_once(when: str) -> None:
    made = subscribed()
    say(made, "AUTH", "c")
    answer = authenticated(made)
    if when == "when accepted":
        say(made, "OK", answer.id, True, "")
    say(made, "AUTH", "c")
    assert sent(made) == []
    say(made, "AUTH", "another")
    assert ("challenge", "another") in authenticated(made).tags


def test_a_challenge_is_answered_again_after_a_refusal() -> None:
    made = subscribed()
    say(made, "AUTH", "c")
    say(made, "OK", authenticated(made).id, False, "error: too early")
    say(made, "AUTH", "c")
    assert ("challenge", "c") in authenticated(made).tags


def test_a_subscription_that_wants_it_is_made_again() -> None:
    made = talk()
    sent(made)
    say(made, "AUTH", "c")
    answer = authenticated(made)
    say(made, "CLOSED", SUB, "auth-required: who are you")
    say(made, "OK", answer.id, True, "")
    assert sent(made) == [REQ]
    say(made, "EOSE", SUB)
    assert made.news == [News("ready")]


@pytest.mark.parametrize("order", ["challenge last", "refusal last"])
def test_the_order_of_challenge_and_refusal_does_not_matter(order: str) -> None:
    made = talk()
    sent(made)
    if order == "challenge last":
        say(made, "CLOSED", SUB, "auth-required:")
    say(made, "AUTH", "c")
    say(made, "OK", authenticated(made).id, True, "")
    if order == "refusal last":
        say(made, "CLOSED", SUB, "auth-required:")
    assert sent(made) == [REQ]


def test_an_event_that_wants_it_is_sent_again() -> None:
    made, mine = subscribed(), event()
    made.publish(mine)
    sent(made)
    say(made, "OK", mine.id, False, "auth-required: x")
    assert sent(made) == []
    say(made, "AUTH", "c")
    say(made, "OK", authenticated(made).id, True, "")
    assert sent(made) == [["EVENT", wire(mine)]]
    say(made, "OK", mine.id, True, "")
    assert made.news == [News("accepted")]


def test_asking_for_it_again_and_again_ends() -> None:
    made, mine = subscribed(), event()
    say(made, "AUTH", "c")
    say(made, "OK", authenticated(made).id, True, "")
    made.publish(mine)
    for _ in range(MAX_ATTEMPTS):
        say(made, "OK", mine.id, False, "auth-required: x")
    with pytest.raises(Hopeless, match="auth-required"):
        say(made, "OK", mine.id, False, "auth-required: x")


def test_a_key_that_is_refused() -> None:
    made = talk()
    sent(made)
    say(made, "CLOSED", SUB, "auth-required:")
    say(made, "AUTH", "c")
    with pytest.raises(Hopeless, match="restricted: members only"):
        say(made, "OK", authenticated(made).id, False, "restricted: members only")


def test_a_refused_key_does_not_matter_where_none_was_asked_for() -> None:
    made = subscribed()
    say(made, "AUTH", "c")
    say(made, "OK", authenticated(made).id, False, "error: relay tag")
    assert made.news == []


def test_an_ok_that_never_comes_is_made_up_for() -> None:
    made = talk()
    sent(made)
    say(made, "AUTH", "c")
    say(made, "CLOSED", SUB, "auth-required:")
    sent(made)
    mine = event()
    made.publish(mine)
    assert sent(made) == [REQ, ["EVENT", wire(mine)]]


def test_a_challenge_that_no_event_can_hold() -> None:
    with pytest.raises(Lost, match="challenge"):
        say(subscribed(), "AUTH", "\x00")


# --- too much -------------------------------------------------------------------------------------------------------


def test_a_flood_ends_the_conversation_and_a_brook_does_not() -> None:
    made = talk()
    for _ in range(int(BURST)):
        made.receive("[]", 0.0)
    with pytest.raises(Lost, match="more than it should"):
        made.receive("[]", 0.0)
    slow = talk()
    for index in range(3 * int(BURST)):
        slow.receive("[]", index / RATE)


def test_bytes_count() -> None:
    made, large = talk(), "x" * (UNIT * 99)
    for _ in range(int(BURST) // 100):
        made.receive(large, 0.0)
    with pytest.raises(Lost):
        made.receive(large, 0.0)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from([SUB, "auth-required:", "restricted:", ""]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def _message(verb: str, rest: list[object]) -> str:
    return json.dumps([verb, *rest])


@given(
    st.lists(
        st.builds(_message, st.sampled_from(["EVENT", "OK", "EOSE", "CLOSED", "AUTH"]), st.lists(JSON))
        | st.text()
        | st.binary()
    )
)
def test_whatever_it_sends(messages: list[str | bytes]) -> None:
    made = talk()
    made.publish(event())
    with suppress(Lost, Hopeless):
        for message in messages:
            made.receive(message, 0.0)
    assert all(isinstance(json.loads(text), list) for text in made.outgoing)
    assert all(one.text.isprintable() for one in made.news if isinstance(one, News))
