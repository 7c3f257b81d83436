"""Copies of the vault, and a new key for it. The command opens the files: the daemon could not."""

from __future__ import annotations

import os

from avault_client.cli.commands.slots import NEW
from avault_client.cli.commands.vault import LOG_N, log_n
from avault_client.cli.grammar import (
    FILE,
    PROOF,
    PROOF_OR_PHONE,
    Argument,
    Command,
    Option,
    WrongUse,
    passphrase_options,
)
from avault_client.cli.hidden import Hidden
from avault_client.cli.passphrases import Source
from avault_protocol import ProofRequiredError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

COPY = passphrase_options("the copy's passphrase", "copy-")


def export(session: Session, parsed: Parsed) -> Result:
    """Write a copy of the vault to a new file."""
    path = parsed.optional("to")
    if path is None:
        raise WrongUse("export needs --to FILE", "for instance: avault export --to vault-copy.jsonl")
    params = log_n(parsed)
    session.prove("export")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with Source.given(parsed, "copy-").read_new("the copy") as passphrase:
            session.call("export", params, passphrase.view, [fd], working="writing the copy")
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return {"file": path}


def _export_lines(result: Result) -> Iterator[str]:
    yield f"wrote {result['file']}: it opens with the passphrase that you gave for the copy, and no other"


def restore_vault(session: Session, parsed: Parsed) -> Result:
    """Replace the vault by a copy."""
    fd = os.open(parsed.text(FILE), os.O_RDONLY | os.O_CLOEXEC)
    try:
        session.require("restore_vault")
        with Source.given(parsed, "copy-").read("the copy") as passphrase:
            restored = _restore(session, fd, passphrase)
    finally:
        os.close(fd)
    return {"file": parsed.text(FILE), **restored}


def _restore(session: Session, fd: int, passphrase: Hidden) -> Result:
    """Restore; prove only if the daemon asks for it: it knows whether there is a vault to be replaced."""
    try:
        return _restore_once(session, fd, passphrase)
    except ProofRequiredError:
        session.prove_now("restore_vault")
    return _restore_once(session, fd, passphrase)


def _restore_once(session: Session, fd: int, passphrase: Hidden) -> Result:
    return session.call("restore_vault", value=passphrase.view, fds=[fd], working="restoring the vault")


def _restore_lines(result: Result) -> Iterator[str]:
    yield f"restored the vault from {result['file']}"


def rekey(session: Session, parsed: Parsed) -> Result:
    """Give the vault a new key."""
    params = log_n(parsed)
    session.prove("rekey")
    with Source.given(parsed, "new-").read_new("the vault under its new key") as passphrase:
        return session.call("rekey", params, passphrase.view, working="writing everything anew")


def _rekey_lines(result: Result) -> Iterator[str]:
    yield f"the vault has a new key: {result['vault']}"
    for slot in result["dropped"]:
        yield f"dropped slot {slot}: add it anew"


COMMANDS = (
    Command(
        "export",
        "write a copy of the vault, under a key and passphrase of its own",
        export,
        lines=_export_lines,
        options=(
            Option("to", "the file to make; it must not be there yet", FILE),
            LOG_N,
            *PROOF_OR_PHONE,
            *COPY,
        ),
        example="avault export --to vault-copy.jsonl",
    ),
    Command(
        "restore-vault",
        "replace the vault by a copy, or by an older file",
        restore_vault,
        lines=_restore_lines,
        arguments=(Argument(FILE, "the copy"),),
        options=(*PROOF_OR_PHONE, *COPY),
        example="avault restore-vault vault-copy.jsonl",
        details="""
Takes the passphrase of the copy, and that of the vault that it replaces, if there is one. Your
phone can stand in for the latter while that vault is unlocked.""",
    ),
    Command(
        "rekey",
        "give the vault a new key, and write everything anew under it",
        rekey,
        lines=_rekey_lines,
        options=(LOG_N, *PROOF, *NEW),
        example="avault rekey",
        details="""
This takes the vault away from someone who knows an old passphrase and has an old copy. It asks for the passphrase
from now on, which may be the same. Other passphrase slots are dropped, by name. A phone cannot
allow it: the passphrase that does is that of the slot that stays.""",
    ),
)
