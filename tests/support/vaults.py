"""Vaults in a temporary directory, cheap to unlock."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from avault_daemon.anchor import Anchor
from avault_daemon.files import Files
from avault_daemon.memory.arena import Arena, Slot
from avault_daemon.vault import Vault

CHEAP = 1
"""log_n for tests only: scrypt takes no time."""
PASSPHRASE = "correct horse battery staple"


@dataclass
class Clock:
    """Unix seconds that pass only when a test says so."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """Where a vault lives in a test, and what survives its daemon."""

    path: Path
    files: Files = field(default_factory=Files)
    arena: Arena = field(default_factory=lambda: Arena(1 << 20))
    clock: Clock = field(default_factory=Clock)

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def state_dir(self) -> Path:
        return self.path / "state"

    @property
    def file(self) -> Path:
        return self.home / "vault.jsonl"

    @property
    def anchor_file(self) -> Path:
        return self.state_dir / "anchor.json"

    def vault(self) -> Vault:
        """Return a vault as a daemon has it that has just been started, not opened yet."""
        anchor = Anchor(self.anchor_file, self.files)
        return Vault(
            self.home, self.state_dir, self.arena, anchor, clock=self.clock, min_log_n=CHEAP, files=self.files
        )

    @contextmanager
    def opened(self) -> Generator[Vault]:
        """A vault whose file has been read; closed at the end."""
        vault = self.vault()
        try:
            vault.open()
            yield vault
        finally:
            vault.close()

    @contextmanager
    def secret(self, text: str | bytes) -> Generator[Slot]:
        """*text* in the arena: a passphrase, or values."""
        with put_in(self.arena, text) as slot:
            yield slot

    async def init(self, vault: Vault, passphrase: str = PASSPHRASE) -> str:
        with self.secret(passphrase) as slot:
            return await vault.init(slot, CHEAP)

    async def unlock(self, vault: Vault, passphrase: str = PASSPHRASE, slot: str | None = None) -> str:
        with self.secret(passphrase) as given:
            return await vault.unlock(given, slot)

    async def put(
        self, vault: Vault, replace: bool = True, /, **values: str | bytes
    ) -> list[tuple[str, int]]:
        """Store text, or bytes declared as base64."""
        with ExitStack() as slots:
            secrets = [
                (
                    name,
                    "text" if isinstance(value, str) else "base64",
                    slots.enter_context(self.secret(value)).view,
                )
                for name, value in values.items()
            ]
            return await vault.put(secrets, replace=replace)


def put_in(arena: Arena, text: str | bytes) -> Slot:
    """Return a slot that holds exactly *text*."""
    raw = text.encode() if isinstance(text, str) else text
    slot = arena.take(len(raw))
    slot.view[:] = raw
    return slot


def value_of(vault: Vault, name: str, version: int | None = None) -> str:
    """Return a value as text; a test may."""
    return bytes(vault.value(name, version).view).decode()


async def make_vault(path: Path, passphrase: str = PASSPHRASE) -> tuple[Place, Vault]:
    """Return a place below *path* and an unlocked vault in it; the caller closes the vault."""
    place = Place(path)
    vault = place.vault()
    vault.open()
    await place.init(vault, passphrase)
    return place, vault
