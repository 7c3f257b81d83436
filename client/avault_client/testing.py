"""A fake of `Vault` for the tests of agents and plugins: in this process, without a socket, a daemon or a vault.

::

    from avault_client.testing import FakeVault

    def test_bot_uses_the_new_token():
        vault = FakeVault({"BOT_TOKEN": "old"}, plugin="bot", secrets=["BOT_TOKEN"])
        bot = Bot(vault)
        vault.rotate("BOT_TOKEN", "new")
        assert bot.token() == "new"
        assert vault.asked == ["BOT_TOKEN"]

A plugin that takes its vault as a parameter needs nothing else. What `Vault` raises, `FakeVault` raises.
"""

from __future__ import annotations

import threading
from binascii import b2a_base64
from typing import TYPE_CHECKING

from avault_protocol import DaemonUnavailableError, LockedError, NotGrantedError, check_secret_name

from ._inject import Injected
from ._profile import TIMEOUT, Grants, Profile
from ._secret import BASE64, TEXT, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, Self


class FakeVault:
    """Behaves as `Vault` does with a daemon whose operator is the test.

    `put`, `rotate`, `grant`, `revoke`, `lock`, `unlock`, `stop` and `start` are the operator's side; `asked` has the
    name of each secret that was asked for, in order, and `requests` the reasons given by name.
    """

    def __init__(
        self,
        values: Mapping[str, str | bytes],
        *,
        plugin: str = "plugin",
        secrets: Iterable[str] | None = None,
        granted: Iterable[str] | None = None,
        wait: float = 0.0,
        on_rotated: Callable[[str], object] | None = None,
    ) -> None:
        """Hold *values*: a str is a text, bytes are bytes. *secrets* and *granted* are all of them if left out.

        *wait* is as for `Vault`; another thread must unlock meanwhile. *on_rotated* is called by `rotate`, in its
        thread.
        """
        declared = values if secrets is None else secrets
        self._profile = Profile(plugin, declared, agent=None, socket=None, wait=wait, timeout=TIMEOUT)
        self._values: dict[str, list[str | bytes]] = {name: [value] for name, value in values.items()}
        self._granted = set(values if granted is None else granted)
        self._on_rotated = on_rotated
        self._changed = threading.Condition()
        self._locked = False
        self._stopped = False
        self._closed = False
        self.asked: list[str] = []
        self.requests: dict[str, str] = {}

    # --- the plugin's side, as `Vault` has it ---------------------------------------------------------------------

    @property
    def plugin(self) -> str:
        """The name of the plugin."""
        return self._profile.plugin

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names that are declared, those added by `request` included."""
        return self._profile.declared

    def get_secret(self, name: str, *, wait: float | None = None) -> Secret:
        """Return the newest version; see `Vault.get_secret`."""
        patience = self._profile.patience(wait)
        check_secret_name(name)
        with self._changed:
            self.asked.append(name)
            self._changed.wait_for(self._answers, patience.left())
            self._check_open()
            if name not in self.secrets or name not in self._granted or name not in self._values:
                raise NotGrantedError
            return self._newest(name)

    def request(self, name: str, reason: str = "") -> bool:
        """Declare one more secret, and note the reason; return whether it is granted already."""
        check_secret_name(name)
        with self._changed:
            self._check_reachable()
            self._profile.declare(name)
            if name not in self._granted:
                self.requests[name] = reason
            return name in self._granted

    def grants(self) -> Grants:
        """Return which declared names are granted and which wait for the operator."""
        with self._changed:
            self._check_open()
            declared = set(self.secrets)
            return Grants(declared & self._granted, declared - self._granted)

    def inject(self) -> Mapping[str, str]:
        """Return the declared secrets as a read-only mapping of names to text."""
        return Injected(self)

    def close(self) -> None:
        """Refuse every later call with `ValueError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- the operator's side --------------------------------------------------------------------------------------

    def put(self, name: str, value: str | bytes) -> None:
        """Store a secret, or a new version of one, and tell nobody."""
        with self._changed:
            self._values.setdefault(check_secret_name(name), []).append(value)

    def rotate(self, name: str, value: str | bytes) -> None:
        """Store a new version, and tell a plugin that it is granted to."""
        self.put(name, value)
        if self._on_rotated is not None and name in self._granted and name in self.secrets:
            self._on_rotated(name)

    def grant(self, *names: str) -> None:
        """Let the plugin read *names*."""
        self._granted.update(names)

    def revoke(self, *names: str) -> None:
        """Take *names* back, at once."""
        self._granted.difference_update(names)

    def lock(self) -> None:
        """Refuse with `LockedError` what does not wait."""
        self._change(locked=True, stopped=self._stopped)

    def unlock(self) -> None:
        """Serve again, also who waits."""
        self._change(locked=False, stopped=self._stopped)

    def stop(self) -> None:
        """Be a daemon that does not run: `DaemonUnavailableError` for what does not wait."""
        self._change(locked=self._locked, stopped=True)

    def start(self) -> None:
        """Run again, locked or unlocked as before."""
        self._change(locked=self._locked, stopped=False)

    def _change(self, *, locked: bool, stopped: bool) -> None:
        with self._changed:
            self._locked, self._stopped = locked, stopped
            self._changed.notify_all()

    def _answers(self) -> bool:
        return self._closed or not (self._locked or self._stopped)

    def _check_reachable(self) -> None:
        if self._closed:
            raise ValueError("the vault is closed")
        if self._stopped:
            raise DaemonUnavailableError

    def _check_open(self) -> None:
        self._check_reachable()
        if self._locked:
            raise LockedError

    def _newest(self, name: str) -> Secret:
        versions = self._values[name]
        value = versions[-1]
        if isinstance(value, str):
            return Secret(name, len(versions), TEXT, bytearray(value.encode()))
        return Secret(name, len(versions), BASE64, bytearray(b2a_base64(value, newline=False)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FakeVault({self._profile})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a vault is neither pickled nor copied: it is a connection of this process")
