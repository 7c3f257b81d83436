"""The blocking client: what a plugin gets its secrets from."""

from __future__ import annotations

from os import getpid
from time import sleep

from avault_protocol import DaemonUnavailableError, LockedError

from ._lines import Lines
from ._profile import TIMEOUT, Grants, Profile, checked, grants_in, is_granted, secret_in
from ._question import Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, Self

    from ._conversation import Answer
    from ._listener import Listener
    from ._patience import Patience
    from ._secret import Secret


class Vault:
    """A plugin's way to its secrets.

    Connects when first used, and again when the daemon was restarted. Nothing is cached: each `get_secret` is a
    decision of the daemon, and a line in its record. Any number of threads may use one vault; none waits behind
    another's ``wait=``. After a fork the child connects for itself, as the caller that it is.
    """

    __slots__ = ("_by_process", "_closed", "_listener", "_on_rotated", "_profile")

    def __init__(
        self,
        *,
        plugin: str,
        secrets: Iterable[str] = (),
        agent: str | None = None,
        socket: str | None = None,
        wait: float | None = None,
        timeout: float = TIMEOUT,
        on_rotated: Callable[[str], object] | None = None,
    ) -> None:
        """Say who asks: *plugin*, which declares *secrets* (names; the operator is asked for those not granted).

        *agent* (or ``AVAULT_AGENT``) names one where several describe this process. *socket* is the path of the
        daemon's socket; see `agent_socket` for where it is looked for otherwise. *wait* (or ``AVAULT_WAIT``): seconds
        that each `get_secret` waits for an unlock; 0 by default. *timeout*: seconds for any other answer.

        *on_rotated* is called with the name of each granted secret that has a new version. It runs on a thread of its
        own (a daemon thread, "avault-rotated", which starts with the first use of the vault, one in each process), and
        may use the vault. What it raises is reported by `threading.excepthook`. What rotates while the connection is
        lost is not told.

        Raises `BadRequestError` for names that are none.
        """
        self._profile = Profile(plugin, secrets, agent=agent, socket=socket, wait=wait, timeout=timeout)
        self._on_rotated = on_rotated
        self._listener: Listener | None = None
        self._by_process: dict[int, Lines] = {}
        self._closed = False

    @property
    def plugin(self) -> str:
        """The name of the plugin."""
        return self._profile.plugin

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names that are declared, those added by `request` included."""
        return self._profile.declared

    def get_secret(self, name: str, *, wait: float | None = None) -> Secret:
        """Return the newest version of secret *name*.

        While the vault is locked, or the daemon away, *wait* seconds pass before that is an error.

        Raises `LockedError`, `NotGrantedError` (also where there is no such secret), `DaemonUnavailableError`,
        `UninitializedError`, `UnknownAgentError`, `AmbiguousAgentError`, `AlreadyBoundError`, `AuditFailedError`, and
        `ValueError` once closed.
        """
        patience = self._profile.patience(wait)
        while True:
            try:
                return self._get(name, patience)
            except DaemonUnavailableError:
                pause = patience.pause()
                if self._closed or not pause:
                    raise
            sleep(pause)

    def request(self, name: str, reason: str = "") -> bool:
        """Declare one more secret, and ask the operator for it; return whether it is granted already.

        *reason*, at most 200 printable characters, is shown to the operator. Raises `BusyError` where too many
        requests are waiting, and the errors of `get_secret`.
        """
        answer = self._ask(Question("request", {"name": name, "reason": reason}))
        self._profile.declare(name)
        return is_granted(answer)

    def grants(self) -> Grants:
        """Return which declared names are granted and which wait for the operator. Raises as `get_secret` does."""
        return grants_in(self._ask(Question("grants", {})))

    def inject(self) -> Mapping[str, str]:
        """Return the declared secrets as a read-only mapping of names to text; see `Injected`."""
        from ._inject import Injected

        return Injected(self)

    def close(self) -> None:
        """Close all connections. Calls of other threads end with an error. To close twice does nothing."""
        self._closed = True
        if self._listener is not None:
            self._listener.end()
        self._lines().close()

    def _get(self, name: str, patience: Patience) -> Secret:
        """Ask once as if in a hurry; wait, on another connection, only if the answer is that the vault is locked."""
        try:
            return secret_in(self._ask(self._profile.question(name)), name)
        except LockedError:
            left = patience.left()
            if not left:
                raise
        question = Question("get_secret", {"name": name, "wait": left})
        return secret_in(checked(self._lines().call_apart(question, left)), name)

    def _ask(self, question: Question) -> Answer:
        if self._closed:
            raise ValueError("the vault is closed")
        return checked(self._lines().call(question))

    def _lines(self) -> Lines:
        """Return this process's connections.

        After a fork that is nothing of what the parent had: its connections say to the daemon that the parent is
        calling, and its lock may be held by a thread that was not forked.
        """
        pid = getpid()  # not os.register_at_fork: who forks in C may not tell Python
        return self._by_process.get(pid) or self._first_lines(pid)

    def _first_lines(self, pid: int) -> Lines:
        made = Lines(self._profile)
        lines = self._by_process.setdefault(pid, made)  # atomic: of several threads, one has made it
        if lines is made:
            for other in set(self._by_process) - {pid}:
                self._by_process.pop(other).abandon()
            if self._on_rotated is not None and not self._closed:
                self._listen(lines, self._on_rotated)
        return lines

    def _listen(self, lines: Lines, on_rotated: Callable[[str], object]) -> None:
        from ._listener import Listener

        self._listener = Listener(lines, on_rotated)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Vault({self._profile})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a vault is neither pickled nor copied: it is a connection of this process")
