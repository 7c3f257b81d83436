"""NIP-46, the client's side, without I/O: what to ask a remote signer, and which answers to believe.

A signer is believed only once it is proven: by the key in a ``bunker://`` URI, or by being the first to say the secret
of our ``nostrconnect://`` URI. From then on nothing but an event signed by that key, to our key, encrypted between the
two, with the id of a request that is open, changes anything; all else is dropped and counted. No bad event ends a
request, because everybody who sees the relay can send some.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from hmac import compare_digest
from time import time
from types import TracebackType
from typing import Any, Self, cast

from avault_protocol import AvaultError, CorruptError, DeniedError

from ..memory import sodium
from ..memory.arena import Arena, Slot
from ..memory.masked import Masked, masked_json
from .event import Event
from .keys import SecretKey
from .nip44 import Conversation
from .uris import client_name, is_web_address

KIND = 24133
GRACE = 3.0
"""Seconds until an error is believed: of several signers under one key the wrong one may be the first to answer."""
REPEAT = 15.0
"""Seconds until a decryption is asked for again: no relay keeps it for a phone that was away."""
REPEAT_SOON = 5.0
"""The same, for what nobody is asked about on the phone: a repetition is no second question there."""
SKEW = 120
"""Seconds that the clocks may differ; signers ignore what is off by more than some minutes."""
MAX_ERROR = 200
"""Characters of a signer's error that are shown."""
_MAX_SEEN = 256
_HEX = frozenset("0123456789abcdef")


class _Dropped(Exception):
    """An event that changes nothing, and why."""


class Answer:
    """What a signer answered: *text*, with zeros for each 64 hex digits if they are a secret, and those in *tokens*.

    Each token is 32 bytes, wiped with `release`.
    """

    __slots__ = ("text", "tokens")

    def __init__(self, text: str, tokens: list[Slot]) -> None:
        self.text = text
        self.tokens = tokens

    def __repr__(self) -> str:
        return f"<Answer with {len(self.tokens)} tokens>"

    def release(self) -> None:
        """Wipe the tokens. Doing so twice is fine."""
        for token in self.tokens:
            token.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Request:
    """One request, from the first event until its outcome is taken. Times are of any clock that only goes forward."""

    __slots__ = (
        "_accepts",
        "_error",
        "_error_at",
        "_sent_at",
        "answer",
        "auth_url",
        "id",
        "method",
        "params",
        "repeat",
        "secret",
    )

    def __init__(
        self,
        number: str,
        method: str,
        params: tuple[str, ...],
        accepts: Callable[[str], bool],
        *,
        secret: bool = False,
        repeat: float = REPEAT_SOON,
    ) -> None:
        self.id = number
        self.method = method
        self.params = params
        self.secret = secret
        self.repeat = repeat  # seconds until it is sent again
        self.answer: Answer | None = None
        self.auth_url: str | None = None  # where the signer wants the operator to go first
        self._accepts = accepts
        self._error: str | None = None
        self._error_at = self._sent_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.id[:8]}>"

    def is_due(self, now: float) -> bool:
        """Report whether it is time to send it, for the first time or again."""
        return now >= self._sent_at + self.repeat

    def sent(self, now: float) -> None:
        """Note that it went out."""
        self._sent_at = now

    def next_at(self) -> float:
        """Return when to look again, if nothing comes before."""
        times = [self._sent_at + self.repeat]
        if self._error is not None:
            times.append(self._error_at + GRACE)
        return min(times)

    def outcome(self, now: float) -> Answer | None:
        """Return the answer if there is one, the caller's from then on. DeniedError with the signer's words."""
        if self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        if self._error is not None and now >= self._error_at + GRACE:
            raise DeniedError(f"the signer answers: {self._error}")
        return None

    def take_error(self, text: str, now: float) -> None:
        """Keep the first error; it counts if nothing better comes."""
        if self._error is None:
            self._error, self._error_at = text, now

    def take_result(self, masked: Masked, result: str) -> bool:
        """Keep the first good result; report whether this was it."""
        shown = masked.blank(result) if self.secret else masked.reveal(result)
        if self.answer is not None or not self._accepts(shown):
            return False
        self.answer = Answer(shown, masked.tokens(result) if self.secret else [])
        return True


class Signer:
    """One pairing: our key, and the signer that it talks to, whose key is *public* once it is proven.

    The clients's key stays the caller's. *clock*: Unix seconds; *chance*: n -> n random bytes.
    """

    def __init__(
        self,
        arena: Arena,
        client: SecretKey,
        public: bytes | None = None,
        *,
        clock: Callable[[], float] = time,
        chance: Callable[[int], bytes] = sodium.random,
    ) -> None:
        self.client = client
        self.public: bytes | None = None
        self.skew = 0.0  # seconds by which the signer's clock, at its last answer, was ahead of ours
        self.dropped: Counter[str] = Counter()  # why, and how often
        self._arena, self._clock, self._chance = arena, clock, chance
        self._conversation: Conversation | None = None
        self._open: list[Request] = []
        self._seen: dict[str, None] = {}
        if public is not None:
            self._pin(public, Conversation.between(arena, client, public))

    # --- requests -----------------------------------------------------------------------------------------------

    def connect(self, secret: str | None, host: str) -> Request:
        """Ask to be paired by the URI that held *secret*. No permissions are asked for, so that each use asks."""
        name = json.dumps({"name": client_name(host)}, separators=(",", ":"))
        good = {"ack"} if secret is None else {"ack", secret}
        params = (self._known().hex(), secret or "", "", name)
        return self._request("connect", params, lambda text: any(_same(text, word) for word in good))

    def pairing(self, secret: str) -> Request:
        """Wait for a signer that scanned the URI with *secret*. Whoever says exactly that is pinned as `public`."""
        request = Request("", "", (), lambda text: _same(text, secret))
        self._open.append(request)
        return request

    def get_public_key(self) -> Request:
        """Ask for the operator's public key: 64 hex digits."""
        return self._request("get_public_key", (), lambda text: len(text) == 64 and _HEX.issuperset(text))

    def nip44_decrypt(self, peer: bytes, payload: str) -> Request:
        """Ask to decrypt what *peer* (32 bytes) encrypted for the operator, or the operator for it."""
        return self._request("nip44_decrypt", (peer.hex(), payload), bool, secret=True, repeat=REPEAT)

    def ping(self) -> Request:
        """Ask for a sign of life."""
        return self._request("ping", (), lambda text: text == "pong")

    def logout(self) -> Request:
        """Say that the pairing ends: a courtesy."""
        return self._request("logout", (), bool)

    def _request(
        self,
        method: str,
        params: tuple[str, ...],
        accepts: Callable[[str], bool],
        *,
        secret: bool = False,
        repeat: float = REPEAT_SOON,
    ) -> Request:
        self._known()
        number = self._chance(16).hex()
        request = Request(number, method, params, accepts, secret=secret, repeat=repeat)
        self._open.append(request)
        return request

    def event(self, request: Request) -> Event:
        """Return a fresh event for *request*: the same id within, so that a signer that asks, asks once.

        Raises LockedError if the keys have been wiped.
        """
        message = {"id": request.id, "method": request.method, "params": request.params}
        plain = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        self._known()
        with self._arena.take(len(plain)) as slot:
            slot.view[:] = plain
            content = cast("Conversation", self._conversation).encrypt(slot)
        return Event.signed(self.client, int(self._clock()), KIND, (("p", self._known().hex()),), content)

    def close_request(self, request: Request) -> None:
        """Forget a request, and wipe an answer that nobody took."""
        if request in self._open:
            self._open.remove(request)
        if request.answer is not None:
            request.answer.release()

    def close(self) -> None:
        """Forget all requests and wipe what the keys share; the client's key stays."""
        for request in self._open[:]:
            self.close_request(request)
        if self._conversation is not None:
            self._conversation.close()

    # --- answers ------------------------------------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> Request | None:
        """Take in whatever a relay sent; return the request that it changed. Never raises for what is in the event.

        *now* is of the clock of the request's times, not of the calendar.
        """
        try:
            return self._receive(event, now)
        except _Dropped as why:
            self.dropped[str(why)] += 1
        except AvaultError as error:  # not encrypted for us, altered, no JSON; or the arena is full, or wiped
            self.dropped[error.code] += 1
        return None

    def _receive(self, event: Event, now: float) -> Request:
        mine = ("p", self.client.public.hex())
        if event.kind != KIND or all(tag[:2] != mine for tag in event.tags):
            raise _Dropped("not for us")
        if self.public is not None and event.pubkey != self.public.hex():
            raise _Dropped("from a stranger")
        if event.id in self._seen or not event.valid_signature():
            raise _Dropped("seen before, or not signed")
        author = bytes.fromhex(event.pubkey)
        conversation = self._conversation or Conversation.between(self._arena, self.client, author)
        try:
            with conversation.decrypt(event.content) as slot, masked_json(self._arena, slot) as masked:
                changed = self._take(masked, now) if self.public is not None else self._meet(masked)
                if self.public is None:
                    self._pin(author, conversation)
        finally:
            if conversation is not self._conversation:
                conversation.close()
        self._note(event)
        return changed

    def _note(self, event: Event) -> None:
        self._seen[event.id] = None
        if len(self._seen) > _MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        self.skew = event.created_at - self._clock()

    def _meet(self, masked: Masked) -> Request:
        """Compare an unproven author's message with the secret of the pairing; whatever else it says, it says in vain."""
        result = _field(masked.value, "result")
        for request in self._open:
            if isinstance(result, str) and request.take_result(masked, result):
                return request
        raise _Dropped("a stranger without the secret")

    def _take(self, masked: Masked, now: float) -> Request:
        request = self._request_of(_field(masked.value, "id"))
        result, error = _field(masked.value, "result"), _field(masked.value, "error")
        if result == "auth_url":
            return self._take_auth_url(request, error, masked)
        if error:
            request.take_error(_printable(masked.blank(error)) if isinstance(error, str) else "an error", now)
            return request
        if not isinstance(result, str) or not request.take_result(masked, result):
            raise _Dropped("not a result of this method")
        return request

    def _take_auth_url(self, request: Request, url: object, masked: Masked) -> Request:
        if not isinstance(url, str) or not is_web_address(shown := masked.reveal(url)):
            raise _Dropped("an auth_url that is none")
        request.auth_url = shown
        return request

    def _request_of(self, number: object) -> Request:
        for request in self._open:
            if request.id and isinstance(number, str) and _same(number, request.id):
                return request
        raise _Dropped("not the id of an open request")

    def _pin(self, public: bytes, conversation: Conversation) -> None:
        self.public, self._conversation = public, conversation

    def _known(self) -> bytes:
        if self.public is None:
            raise ValueError("the signer is not known yet")
        return self.public


def _field(value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise CorruptError("a message that is no object")
    return cast("dict[str, Any]", value).get(name)


def _same(a: str, b: str) -> bool:
    return compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_ERROR]
