"""Where passphrases come from: a file descriptor, a file, or the terminal. Never the command line."""

from __future__ import annotations

import os

from avault_protocol import BadRequestError, ProofRequiredError
from avault_protocol.limits import MAX_PASSPHRASE, MIN_PASSPHRASE

from .grammar import WrongUse
from .hidden import Hidden, read_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .grammar import Parsed

CONTINUATION = 0x80  # the two highest bits, 10, mark a byte of UTF-8 that begins no character
CONTINUATION_MASK = 0xC0


class Source:
    """One place to read passphrases from."""

    __slots__ = ("fd", "file", "kept", "new", "prefix")

    def __init__(self, fd: int | None = None, file: str | None = None, prefix: str = "") -> None:
        self.fd = fd
        self.file = file
        self.prefix = prefix
        self.kept: Hidden | None = None
        self.new = False  # a passphrase that nothing knows yet, and no phone stands in for

    @classmethod
    def given(cls, parsed: Parsed, prefix: str = "") -> Source:
        """Return what ``--passphrase-fd`` and ``--passphrase-file`` (with *prefix*) say."""
        fd, file = parsed.number(f"{prefix}passphrase-fd"), parsed.optional(f"{prefix}passphrase-file")
        if fd is not None and file is not None:
            raise WrongUse(f"--{prefix}passphrase-fd and --{prefix}passphrase-file exclude each other")
        return cls(fd, file, prefix)

    def keep(self, what: str) -> None:
        """Read from a descriptor now what is asked for later, as often as it is; `forget` ends that."""
        if self.fd is not None:
            self.kept = self.read(what)

    def forget(self) -> None:
        """Wipe what was kept."""
        if self.kept is not None:
            self.kept.wipe()
        self.kept = None

    @property
    def asks(self) -> bool:
        """Whether the passphrase is asked for on the terminal."""
        return self.fd is None and self.file is None

    def read(self, what: str) -> Hidden:
        """Return the passphrase *what*, in NFKC (NIP-49), to be wiped by the caller.

        Raises:
            ProofRequiredError: there is none to be had.
            BadRequestError: it is not UTF-8.
            TooLargeError: it has more than `MAX_PASSPHRASE` bytes.

        """
        try:
            line = self._read(what)
        except EOFError:
            raise ProofRequiredError(f"no passphrase was given for {what}") from None
        if line.size == 0:
            raise ProofRequiredError(f"the passphrase for {what} is empty")
        return normalised(line)

    def _read(self, what: str) -> Hidden:
        if self.kept is not None:
            return self.kept.copy()
        if self.fd is not None:
            return read_line(self.fd, MAX_PASSPHRASE, "the passphrase")
        if self.file is not None:
            fd = self._open(self.file)
            try:
                return read_line(fd, MAX_PASSPHRASE, "the passphrase")
            finally:
                os.close(fd)
        return self._ask(f"passphrase for {what}: ")

    def _open(self, file: str) -> int:
        """Open *file*; an error does not name it: it may be the passphrase itself."""
        try:
            return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
        raise BadRequestError(f"--{self.prefix}passphrase-file: {reason}")

    def _ask(self, prompt: str) -> Hidden:
        from . import terminal

        try:
            return terminal.ask(prompt, "the passphrase", MAX_PASSPHRASE)
        except OSError:
            hint = (
                f"use --{self.prefix}passphrase-fd or --{self.prefix}passphrase-file, or run it on a terminal"
                + ("" if self.prefix or self.new else "; with a phone that is paired: --phone")
            )
            raise ProofRequiredError("there is no terminal to ask for the passphrase", hint=hint) from None

    def read_new(self, what: str) -> Hidden:
        """Return a new passphrase, typed twice where it is asked for; `BadRequestError` also if it is too short."""
        self.new = True
        passphrase = self.read(what)
        try:
            _check_length(passphrase)
            if self.asks:
                self._repeat(passphrase)
        except BaseException:
            passphrase.wipe()
            raise
        return passphrase

    def _repeat(self, passphrase: Hidden) -> None:
        with normalised(self._ask("the same once more: ")) as again:
            if again.view != passphrase.view:
                raise BadRequestError("the two passphrases differ")


def _check_length(passphrase: Hidden) -> None:
    characters = sum(byte & CONTINUATION_MASK != CONTINUATION for byte in passphrase.view)
    if characters < MIN_PASSPHRASE:
        raise BadRequestError(
            f"the passphrase is shorter than {MIN_PASSPHRASE} characters",
            hint="five random words are easy to keep and hard to guess",
        )


def normalised(passphrase: Hidden) -> Hidden:
    """Return *passphrase* in NFKC, having wiped the one given if it is another.

    Only a passphrase that is not ASCII becomes a `str` on the way, since Unicode's normal forms need one.
    """
    if passphrase.buffer.isascii():
        return passphrase
    from unicodedata import normalize

    with passphrase:
        try:
            text = normalize("NFKC", str(passphrase.view, "utf-8"))
        except UnicodeDecodeError:
            raise BadRequestError("the passphrase is not UTF-8 text") from None
    return Hidden.of(text.encode())
