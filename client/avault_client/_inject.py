"""The declared secrets as a mapping of strings, for registries of plugins that expect one."""

from __future__ import annotations

from collections.abc import Mapping

from avault_protocol import NotGrantedError, is_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn, Protocol

    from ._secret import Secret

    class Source(Protocol):
        """What secrets are injected from: a `Vault`, or a fake of one."""

        @property
        def secrets(self) -> tuple[str, ...]: ...
        def get_secret(self, name: str) -> Secret: ...


class UndeclaredSecretError(NotGrantedError, KeyError):
    """The plugin asked for a secret that it did not declare. Raised by clients; never on the wire.

    It is a `KeyError` too, so that `Mapping.get` and code written for dictionaries do what they always do.
    """

    default_hint = "declare it: Vault(plugin=..., secrets=[...])"

    def __str__(self) -> str:
        return self.message  # KeyError would quote it


class Injected(Mapping[str, str]):
    """The declared secrets of a plugin, by name. Each look-up asks the daemon; nothing is kept.

    ``in``, ``len`` and iteration only look at names. A name that was not declared raises `UndeclaredSecretError`, one
    that was not granted `NotGrantedError`, and so on as for `Vault.get_secret`; a value that is not text `TypeError`.
    """

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, name: str) -> str:
        if name not in self._source.secrets:
            shown = f"secret {name}" if is_secret_name(name) else "that: it is no name of a secret"
            raise UndeclaredSecretError(f"this plugin did not declare {shown}")
        with self._source.get_secret(name) as secret:
            return secret.reveal()

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.secrets)

    def __len__(self) -> int:
        return len(self._source.secrets)

    def __contains__(self, name: object) -> bool:
        return name in self._source.secrets

    # Mapping compares by content, which would fetch every value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Injected({list(self._source.secrets)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("injected secrets are neither pickled nor copied")
