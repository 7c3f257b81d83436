"""What is in force, probed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from avault_client._paths import SYSTEM_DIRECTORY, runtime_directory
from avault_client.cli.doctor import machine, places, process, relays, service
from avault_client.cli.doctor.finding import Finding, fail, ok, warn
from avault_client.cli.grammar import JSON, Command
from avault_client.cli.output import escaped, print_json
from avault_protocol import UNINITIALIZED, AvaultError, DaemonUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

FAILED = 1
MARGIN = 20


def doctor(session: Session, parsed: Parsed) -> int:
    """Look at everything; return 1 if something fails."""
    found = list(findings(session))
    if parsed.flag("json"):
        print_json({"findings": [asdict(finding) for finding in found]})
    else:
        for line in lines(found):
            print(line)
    return FAILED if any(finding.level == "fail" for finding in found) else 0


def lines(found: Iterable[Finding]) -> Iterator[str]:
    """Yield *found* as a person reads it."""
    for finding in found:
        yield f"{finding.level:<6}{finding.what:<{MARGIN}}{escaped(finding.detail)}"
        if finding.mend:
            yield f"{'':<6}{'':<{MARGIN}}{escaped(finding.mend)}"


def findings(session: Session) -> Iterator[Finding]:
    """Yield what there is to say: of the daemon, if one answers, and of the machine."""
    told: Result | None = None
    try:
        told = session.call("status")
    except DaemonUnavailableError as error:
        yield fail("daemon", error.message, "start it: avault install-service, or avaultd")
    except AvaultError as error:
        yield fail("daemon", error.message, error.hint)
    if told is not None:
        yield from _daemon(told)
        yield from process.findings(told)
        yield from _places(told)
        yield from relays.findings(told["phone"])
        yield from _optional(told)
    yield from service.findings(*_served(told))
    yield from machine.findings()


def _served(told: Result | None) -> tuple[str, int | None]:
    """Return whose service it is, or would be, and the daemon's pid."""
    if told is not None:
        return told["service"], told["pid"]
    return ("system" if os.path.isdir(SYSTEM_DIRECTORY) else "user"), None


def _daemon(told: Result) -> Iterator[Finding]:
    from importlib.metadata import version

    mine = version("avault-client")
    if told["version"] != mine:
        yield warn("daemon", f"avaultd {told['version']}, this command is {mine}", "restart avaultd")
    else:
        yield ok("daemon", f"avaultd {mine}, pid {told['pid']}, {told['service']} service")
    if told["state"] == UNINITIALIZED:
        yield warn("vault", "there is none yet", "run: avault init")
    else:
        yield ok("vault", f"{told['state']}, generation {told['generation']}")
    if not told["record"]["ok"]:
        yield fail("record", "not working: nothing is served", "mend the disk, then restart avaultd")
    for warning in told["warnings"]:
        yield warn("warning", warning)


def _optional(told: Result) -> Iterator[Finding]:
    """Yield how that is which is only there if the settings ask for it."""
    keyring = told["keyring"]
    if keyring["ok"]:
        yield ok("keyring", f"{keyring['backend']}, found by the daemon")
    elif keyring["slots"] or keyring["backend"]:
        yield warn("keyring", "cannot be used now", "is it unlocked? then restart avaultd")
    if told["lock_on"]:
        yield ok("lock on", f"{', '.join(told['lock_on'])}, unless there is a warning above")


def _places(told: Result) -> Iterator[Finding]:
    directory = Path(runtime_directory(os.environ))
    try:
        uid = (Path("/proc") / str(told["pid"])).stat().st_uid
    except OSError:
        uid = -1
    yield from places.findings(directory, Path(told["home"]), told["service"], uid)


COMMANDS = (
    Command(
        "doctor",
        "check what is in force, by trying, and say how to mend it",
        doctor,
        options=(JSON,),
        example="avault doctor",
        details="""
One line for each thing: "ok"; "warn", what protects less than it could; "fail", what does not work or is not as
promised, and then the exit status is 1. Below it: how to mend it. It needs no daemon and no passphrase, and reads what
the kernel says of the daemon's process. Relays are tried from here, not by the daemon; nothing is sent to them.""",
    ),
)
