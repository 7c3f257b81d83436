"""avault as a service of systemd."""

from __future__ import annotations

import os
from collections.abc import Iterator

from avault_client.cli import launch, terminal
from avault_client.cli.grammar import JSON, Command, Option, WrongUse
from avault_client.cli.output import escaped, note, print_json
from avault_client.cli.service import install, manager, units
from avault_client.cli.service.manager import UNITS
from avault_protocol import BadRequestError, BusyError, DaemonUnavailableError, DeniedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from avault_client.cli.grammar import Parsed
    from avault_client.cli.service.units import File
    from avault_client.cli.session import Session

PLACES = ("AVAULT_HOME", "AVAULT_CONFIG", "AVAULT_RUNTIME_DIR")


def install_service(session: Session, parsed: Parsed) -> None:
    """Write the units, enable and start them; or only show them, or take them away."""
    service, program = _service(parsed), launch.find_program()
    found = units.files(units.shipped(program, service), program, service)
    if parsed.flag("print"):
        for file in found:
            print(f"# {escaped(file.path)}\n{file.text}")
        return
    _check_may(service)
    if parsed.flag("remove"):
        _tell(install.remove(found, service), as_json=parsed.flag("json"))
    else:
        _check(session, parsed, program, service, found)
        _tell(_steps(found, service, parsed), as_json=parsed.flag("json"))


def _tell(steps: Iterator[str], *, as_json: bool) -> None:
    """Take the *steps*, and say of each that it was taken: a later one may fail."""
    done: list[str] = []
    for step in steps:
        done.append(step)
        if not as_json:
            print(escaped(step))
    if as_json:
        print_json({"done": done})


def _check(session: Session, parsed: Parsed, program: str, service: str, found: list[File]) -> None:
    if service == "system":
        install.check_program(program)
    _check_running(session, service)
    _check_edited(found, replace=parsed.flag("replace"))
    for name in PLACES:
        if os.environ.get(name):
            note(f"{name} is set here; the service does not see it (a drop-in with Environment= would)")


def _steps(found: list[File], service: str, parsed: Parsed) -> Iterator[str]:
    changed = any(file.state() != "unchanged" for file in found)
    yield from install.write(found)
    yield from install.make_user(found)
    yield from install.enable(service, changed=changed)
    if service == "user":
        yield from install.linger(wanted=_wants_linger(parsed))


def _service(parsed: Parsed) -> str:
    for one, other in (("linger", "no-linger"), ("user", "system"), ("print", "remove")):
        if parsed.flag(one) and parsed.flag(other):
            raise WrongUse(f"either --{one} or --{other}")
    as_root = os.geteuid() == 0 and not parsed.flag("user")
    return "system" if parsed.flag("system") or as_root else "user"


def _check_may(service: str) -> None:
    if not manager.is_here():
        raise BadRequestError(
            "systemd does not run this machine", hint="have what runs it start avaultd; see: avault doctor"
        )
    if service == "system" and os.geteuid() != 0:
        raise DeniedError("only root installs a system service", hint="run it with sudo, or with --user")


def _check_running(session: Session, service: str) -> None:
    """Refuse while a daemon runs that is not the unit's: systemd would take its sockets from under it."""
    try:
        told = session.call("status")
        by_hand = told["service"] == service and not manager.runs(told["pid"], UNITS[service][0])
    except (DaemonUnavailableError, OSError):
        return
    if by_hand:
        raise BusyError(
            f"avaultd runs already, as process {told['pid']}, and was not started by its unit",
            hint=f"stop it first: kill {told['pid']} (which locks the vault)",
        )


def _check_edited(found: list[File], *, replace: bool) -> None:
    """Show what differs in units that somebody edited, and ask before they are replaced."""
    edited = [file for file in found if file.state() == "edited"]
    for file in edited:
        for line in file.difference():
            note(line)
    if not edited or replace:
        return
    note("changes of your own are kept in a drop-in: systemctl [--user] edit UNIT")
    if not terminal.confirmed("replace what differs?", "to replace it: --replace"):
        raise BadRequestError("nothing was installed: units differ", hint="to replace them: --replace")


def _wants_linger(parsed: Parsed) -> bool:
    if parsed.flag("linger") or parsed.flag("no-linger") or manager.lingers(manager.user_name()):
        return parsed.flag("linger")
    try:
        return terminal.confirmed("start it with the machine, before you log in?", "")
    except BadRequestError:
        return False


COMMANDS = (
    Command(
        "install-service",
        "run avaultd as a service of systemd",
        install_service,
        options=(
            Option("user", "your own service (what is done if you are not root)"),
            Option("system", "the machine's service, under a user of its own (what is done for root)"),
            Option("linger", "start your service with the machine, not with your login"),
            Option("no-linger", "do not, and do not ask"),
            Option("replace", "replace units that were edited, without asking"),
            Option("print", "show the units, and do nothing"),
            Option("remove", "stop the service and remove its units; the vault stays"),
            JSON,
        ),
        example="avault install-service --linger",
        details="""
Writes the units, enables and starts them. Done again, it changes nothing, or only what a new version needs. What you
want otherwise belongs in a drop-in (systemctl --user edit avault.service), which it never touches.""",
    ),
)
