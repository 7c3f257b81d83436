"""One conversation with one relay, the client's side, without I/O: NIP-01, and NIP-42 where the relay asks for it.

Texts go in, texts to send and what happened come out. A relay is not trusted with anything: what it sends wrong is
passed over, unless it sends too much of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from avault_protocol import CorruptError

from .event import Event
from .keys import SecretKey

AUTH_KIND = 22242
MAX_MESSAGE = 128 * 1024
"""Bytes of one message; an answer with a token is below 1 KiB."""
MAX_ATTEMPTS = 3
"""How often one thing is tried again after the relay asked for NIP-42."""
BURST, RATE = 2000.0, 100.0
"""What a relay may send at once, and each second on: one for a message and one for each `UNIT` bytes of it."""
UNIT = 512
_SUBSCRIPTION = "avault"
_MAX_TEXT = 200

Stage = Literal["ready", "accepted", "absent", "refused"]
"""Subscribed; event taken, not taken because nobody listens, not taken for another reason."""


class News(NamedTuple):
    """What happened; *text*: the relay's words, printable."""

    stage: Stage
    text: str = ""


class Lost(Exception):
    """This conversation is over; another may go better."""


class Hopeless(Exception):
    """This relay does not want us."""


class Talk:
    """A conversation; `outgoing` holds what to send, `news` what happened; whoever reads them empties them.

    *url*: as it was dialled, which NIP-42 signs. *clock*: Unix seconds.
    """

    def __init__(self, url: str, key: SecretKey, clock: Callable[[], float], now: float) -> None:
        self.ready = False
        self.outgoing: list[str] = []
        self.news: list[News | Event] = []
        self._url, self._key, self._clock = url, key, clock
        self._challenge: str | None = None
        self._answered: str | None = None  # the challenge whose answer was accepted, or may yet be
        self._auth: str | None = None  # the id of our answer to the challenge
        self._attempts = 0
        self._closed = False  # our subscription, until we are authenticated
        self._sent: dict[str, Event] = {}  # not acknowledged
        self._credit, self._credited_at = BURST, now
        self._subscribe()

    def publish(self, event: Event) -> None:
        """Send an event; whoever listens must be `ready` first, or the answer may be missed."""
        if self._closed:
            self._subscribe()
        self._sent[event.id] = event
        while len(self._sent) > MAX_ATTEMPTS:
            del self._sent[next(iter(self._sent))]
        self._send("EVENT", event.to_wire())

    def be_ready(self) -> None:
        """Go on without the relay's word that the subscription stands: not all relays give it."""
        if not self.ready:
            self.ready = True
            self.news.append(News("ready"))

    def receive(self, text: str | bytes, now: float) -> None:
        """Take in a message. Raises Lost if it ends the conversation, Hopeless if any other would end the same way."""
        self._charge(len(text), now)
        try:
            message: Any = json.loads(text)
        except (ValueError, RecursionError):
            return
        match message:
            case ["EVENT", str(name), fields] if name == _SUBSCRIPTION:
                self._take_event(fields)
            case ["EOSE", str(name), *_] if name == _SUBSCRIPTION:
                self.be_ready()
            case ["OK", str(number), bool(accepted), *rest]:
                self._take_ok(number, accepted, _words(rest))
            case ["CLOSED", str(name), *rest] if name == _SUBSCRIPTION:
                self._take_closed(_words(rest))
            case ["AUTH", str(challenge), *_]:
                self._take_challenge(challenge)
            case _:  # a NOTICE is for people; anything else is not for us
                pass

    # ------------------------------------------------------------------------------------------------------------

    def _charge(self, size: int, now: float) -> None:
        credit = min(BURST, self._credit + (now - self._credited_at) * RATE)
        self._credit, self._credited_at = credit - 1 - size // UNIT, now
        if self._credit < 0:
            raise Lost("it sends more than it should")

    def _send(self, *message: object) -> None:
        self.outgoing.append(json.dumps(message, separators=(",", ":"), ensure_ascii=False))

    def _subscribe(self) -> None:
        self._closed = False
        # No `since`, which relays compare with live events too, and the signer's clock may be slow.
        wanted = {"kinds": [24133], "#p": [self._key.public.hex()], "limit": 0}
        self._send("REQ", _SUBSCRIPTION, wanted)

    def _take_event(self, fields: object) -> None:
        with suppress(CorruptError):
            self.news.append(Event.from_wire(fields))

    def _take_ok(self, number: str, accepted: bool, words: str) -> None:
        if number == self._auth:
            self._take_auth(accepted, words)
            return
        # Some relays refuse with an empty id.
        oldest = next(iter(self._sent), "") if number == "" else number
        event = self._sent.pop(oldest, None)
        if event is None:
            return
        if accepted or words.startswith("duplicate:"):
            self.news.append(News("accepted"))
        elif words.startswith("auth-required:"):
            self._sent[event.id] = event
            self._need_auth(words)
        else:
            self._refused(words)

    def _refused(self, words: str) -> None:
        if words.startswith(("restricted:", "blocked:", "pow:")):
            raise Hopeless(words)
        absent = words.startswith("mute:") or "no one was listening" in words
        self.news.append(News("absent" if absent else "refused", words))

    def _take_closed(self, words: str) -> None:
        if words.startswith(("restricted:", "blocked:", "unsupported:")):
            raise Hopeless(words)
        if not words.startswith("auth-required:"):
            raise Lost(words or "it closed the subscription")
        self._closed = True
        self._need_auth(words)

    # --- NIP-42, by the client's key, which the relay knows anyway ----------------------------------------------

    def _take_challenge(self, challenge: str) -> None:
        """Answer a challenge once: some relays repeat it, and then refuse whom they have accepted."""
        self._challenge = challenge[:1024]
        if self._challenge != self._answered:
            self._authenticate()

    def _authenticate(self) -> None:
        tags = (("relay", self._url), ("challenge", self._challenge or ""))
        try:
            event = Event.signed(self._key, int(self._clock()), AUTH_KIND, tags, "")
        except ValueError:
            raise Lost("its challenge is no text that an event can hold") from None
        self._auth, self._answered = event.id, self._challenge
        self._send("AUTH", event.to_wire())

    def _need_auth(self, words: str) -> None:
        """Repeat what the relay refused, at once if we are authenticated by now, else when we are."""
        self._attempts += 1
        if self._attempts > MAX_ATTEMPTS:
            raise Hopeless(words)
        if self._challenge is not None and self._auth is None:
            self._repeat()

    def _take_auth(self, accepted: bool, words: str) -> None:
        self._auth = None
        if accepted:
            self._repeat()
            return
        self._answered = None
        if self._attempts:  # relays also challenge whom they let in anyway
            raise Hopeless(words or "it does not accept our key")

    def _repeat(self) -> None:
        if self._closed:
            self._subscribe()
        for event in self._sent.values():
            self._send("EVENT", event.to_wire())


def _words(rest: list[Any]) -> str:
    text = rest[0] if rest and isinstance(rest[0], str) else ""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_TEXT])
