"""Making the vault, unlocking it, locking it."""

from __future__ import annotations

from avault_client.cli.grammar import PROOF, Command, Option, WrongUse
from avault_protocol import (
    UNINITIALIZED,
    UNLOCKED,
    BadRequestError,
    DaemonUnavailableError,
    RequestTimeoutError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

START = Option("start", "start avaultd if it does not run")
LOG_N = Option("log-n", "cost of a guess: 2^N steps of scrypt, 16 to 22; 18 if left out", "N")


def log_n(parsed: Parsed) -> dict[str, int]:
    """Return the parameter that ``--log-n`` gives."""
    number = parsed.number("log-n")
    return {} if number is None else {"log_n": number}


def patience(parsed: Parsed) -> dict[str, int]:
    """Return the parameter that ``--timeout`` gives to what waits for a phone."""
    number = parsed.number("timeout")
    return {} if number is None else {"timeout": number}


def _begin(session: Session, parsed: Parsed) -> Result:
    """Start the daemon if that was asked for; return its status."""
    if parsed.flag("start"):
        from avault_client.cli import launch

        launch.ensure(session)
    return session.call("status")


def init(session: Session, parsed: Parsed) -> Result:
    """Make the vault, and unlock it."""
    params = log_n(parsed)
    if _begin(session, parsed)["state"] != UNINITIALIZED:
        raise BadRequestError("there is a vault already", hint="see: avault status")
    session.require("init")
    with session.source.read_new("the new vault") as passphrase:
        made = session.call("init", params, passphrase.view, working="making the vault")
    session.proven = True
    return made


def _init_lines(made: Result) -> Iterator[str]:
    yield f"made vault {made['vault']}, and unlocked it"
    yield "there is no way back without the passphrase: keep it in a second place"


def unlock(session: Session, parsed: Parsed) -> Result:
    """Unlock the vault; an unlocked one is fine."""
    seconds = parsed.number("timeout")
    if parsed.flag("phone") and parsed.flag("keyring"):
        raise WrongUse("unlock takes either --phone or --keyring")
    status = _begin(session, parsed)
    if status["state"] == UNLOCKED:
        return {"already": True, "slot": None, "vault": status["vault"]}
    if parsed.flag("keyring"):
        return session.call("keyring_unlock", working="asking the keyring")
    if session.phone:  # by its option, or in a shell that asks the phone
        return session.call("phone_unlock", patience(parsed), working="asking your phone")
    session.require("unlock")
    slot = parsed.optional("slot")
    with session.source.read("the vault") as passphrase:
        params = {"slot": slot} if slot else {}
        try:
            done = session.call("unlock", params, passphrase.view, working="unlocking", timeout=seconds)
        except DaemonUnavailableError as error:
            raise _late(error, seconds) from None
    session.proven = not done["already"]
    return done


def _late(error: DaemonUnavailableError, seconds: int | None) -> Exception:
    silent = seconds is not None and "did not answer within" in error.message
    return RequestTimeoutError(f"not unlocked within {seconds} s") if silent else error


def _unlock_lines(done: Result) -> Iterator[str]:
    yield "already unlocked" if done["already"] else "unlocked"


def lock(session: Session, parsed: Parsed) -> Result:
    """Wipe everything from the daemon's memory."""
    return session.call("lock")


def _lock_lines(done: Result) -> Iterator[str]:
    yield "locked"


COMMANDS = (
    Command(
        "init",
        "make a vault, and unlock it",
        init,
        lines=_init_lines,
        options=(LOG_N, START, *PROOF),
        example="avault init --start",
        details="""
The passphrase is asked for twice, and has at least 8 characters. It is the only way into the vault: nobody can
bring it back.""",
    ),
    Command(
        "unlock",
        "unlock the vault",
        unlock,
        lines=_unlock_lines,
        options=(
            Option("slot", "try this slot only (see: avault slot list)", "ID"),
            Option("timeout", "give up after so many seconds", "S"),
            START,
            *PROOF,
            Option("phone", "ask every phone that is paired (see: avault slot add phone)"),
            Option("keyring", "by the keyring of your desktop (see: avault slot add keyring)"),
        ),
        example="avault unlock --start",
        details="""
A vault that is unlocked already is fine, and no passphrase is asked for. A phone gets 180 seconds, if no --timeout
says otherwise.""",
    ),
    Command(
        "lock",
        "lock the vault: wipe everything from the daemon's memory",
        lock,
        lines=_lock_lines,
        example="avault lock",
    ),
)
