"""What a plugin says of itself, and how it reads the daemon's answers: shared by `Vault` and `AsyncVault`."""

from __future__ import annotations

import os

from avault_protocol import METHODS, BadRequestError, limits

from ._paths import agent_socket
from ._patience import NONE, Patience
from ._question import Question, the_same
from ._secret import BASE64, TEXT, Secret, wipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._conversation import Answer

# Seconds that the daemon has for an answer which waits for nobody. It answers in microseconds; a machine that comes
# back from suspend, or swaps, does not.
TIMEOUT = 10.0


class Grants:
    """What a plugin may read (*granted*), and what of its declarations the operator has not decided (*waiting*)."""

    __slots__ = ("granted", "waiting")

    def __init__(self, granted: Iterable[str], waiting: Iterable[str]) -> None:
        self.granted = frozenset(granted)
        self.waiting = frozenset(waiting)

    def __repr__(self) -> str:
        return f"Grants(granted={sorted(self.granted)}, waiting={sorted(self.waiting)})"


class Profile:
    """Who asks, for what, where, and for how long."""

    __slots__ = ("_questions", "_socket", "agent", "declared", "plugin", "timeout", "wait")

    def __init__(
        self,
        plugin: str,
        secrets: Iterable[str],
        *,
        agent: str | None,
        socket: str | None,
        wait: float | None,
        timeout: float,
    ) -> None:
        if isinstance(secrets, str):
            raise TypeError("secrets is a list of names, not one name")
        self.plugin = plugin
        self.agent = agent or os.environ.get("AVAULT_AGENT") or None
        self.declared = tuple(secrets)
        self.wait = _wait_from_environment() if wait is None else _checked_wait(wait)
        self.timeout = _checked_timeout(timeout)
        self._socket = socket
        self._questions: dict[str, Question] = {}
        self.hello()

    def path(self) -> str:
        """Return where the agents' socket is at this moment."""
        return agent_socket(self._socket)

    def hello(self) -> Question:
        """Return what opens a connection; raise `BadRequestError` for names that are none."""
        declared = self.declared  # read once: another thread may declare more meanwhile
        return the_same((self.plugin, self.agent, declared), lambda: self._first_hello(declared))

    def _first_hello(self, declared: tuple[str, ...]) -> Question:
        said: dict[str, object] = {
            "protocol": limits.PROTOCOL_VERSION,
            "plugin": self.plugin,
            "secrets": list(declared),
        }
        if self.agent is not None:
            said["agent"] = self.agent
        METHODS["hello"].check(said)
        return Question("hello", said)

    def question(self, name: str) -> Question:
        """Return what asks for secret *name*: the same one each time, for a name that is declared."""
        return self._questions.get(name) or self._first_question(name)

    def _first_question(self, name: str) -> Question:
        if name not in self.declared:
            return _get_secret(name)
        return self._questions.setdefault(name, the_same((name,), lambda: _get_secret(name)))

    def declare(self, name: str) -> None:
        """Add *name* to what later hellos declare, as `request` did for the connection it was made on."""
        if name not in self.declared:
            self.declared = (*self.declared, name)

    def patience(self, wait: float | None) -> Patience:
        """Return the patience of one call: *wait* seconds, or the profile's."""
        seconds = self.wait if wait is None else _checked_wait(wait)
        return Patience(seconds) if seconds else NONE

    def __repr__(self) -> str:
        return f"plugin={self.plugin!r}, secrets={list(self.declared)}"


def _get_secret(name: str) -> Question:
    return Question("get_secret", {"name": name})


def checked(answer: Answer) -> Answer:
    """Return *answer*, or raise the error that it is."""
    if answer.error is not None:
        raise answer.error
    return answer


def secret_in(answer: Answer, name: str) -> Secret:
    """Return the secret that `get_secret` answered; raise `BadRequestError` if it is not the one asked for."""
    value = answer.value
    assert value is not None  # noqa: S101 - the conversation lets no other answer to get_secret pass
    version, encoding = answer.result.get("version"), answer.result.get("encoding")
    if answer.result.get("name") == name and isinstance(version, int) and encoding in (TEXT, BASE64):
        return Secret(name, version, str(encoding), value)
    wipe(value)
    raise BadRequestError(f"the daemon sent something else than secret {name}")


def grants_in(answer: Answer) -> Grants:
    """Return what `grants` answered."""
    return Grants(_names(answer, "granted"), _names(answer, "waiting"))


def is_granted(answer: Answer) -> bool:
    """Return what `request` answered."""
    return answer.result.get("granted") is True


def _names(answer: Answer, key: str) -> list[str]:
    names = answer.result.get(key)
    if not isinstance(names, list):
        raise BadRequestError(f"the daemon sent no list of what is {key}")
    return [str(name) for name in names]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _wait_from_environment() -> float:
    text = os.environ.get("AVAULT_WAIT")
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    return _checked_wait(seconds, "AVAULT_WAIT")


def _checked_wait(wait: float, said: str = "wait") -> float:
    if not 0 <= wait <= limits.MAX_WAIT:
        raise BadRequestError(f"{said}: not a number of seconds from 0 to {limits.MAX_WAIT:.0f}")
    return wait


def _checked_timeout(timeout: float) -> float:
    if not 0.001 <= timeout <= limits.MAX_WAIT:
        raise BadRequestError(f"timeout: not a number of seconds from 0.001 to {limits.MAX_WAIT:.0f}")
    return timeout
