"""Putting the units in place and taking them away. Each step returns what it did, in words; done again, it says so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISVTX, S_IWGRP, S_IWOTH

from avault_protocol import BadRequestError

from . import manager
from .manager import UNITS, tell, words
from .units import SYSUSERS, File

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - ProtectHome= and PrivateTmp=
"""What the system's unit does not see."""


def check_program(program: str) -> None:
    """Refuse a daemon for the system service that its unit cannot see, or that others than root may replace."""
    real = os.path.realpath(program)
    if any(Path(real).is_relative_to(place) for place in HIDDEN):
        raise BadRequestError(
            f"{real}: the system service sees no home directories, nor /tmp",
            hint="install avault for all, in /opt/avault, say, and run avault from there",
        )
    for path in (Path(real), *Path(real).parents):
        status = path.stat()
        if status.st_uid or (status.st_mode & (S_IWGRP | S_IWOTH) and not status.st_mode & S_ISVTX):
            raise BadRequestError(
                f"{path}: others than root may replace what the system service runs",
                hint=f"run: chown root {path}; chmod go-w {path}",
            )


def write(found: Sequence[File]) -> Iterator[str]:
    """Write the *found* files that are not as they should be."""
    for file in found:
        state = file.state()
        if state == "unchanged":
            yield f"unchanged: {file.path}"
        else:
            file.write()
            yield f"{'wrote' if state == 'new' else 'replaced'}: {file.path}"


def make_user(found: Sequence[File]) -> Iterator[str]:
    """Make the users that are among *found*."""
    for file in found:
        if file.path.name.endswith(SYSUSERS):
            tell(["systemd-sysusers", str(file.path)])
            yield "user avault and group avault-operators are there"
            yield "who is to operate it: usermod --append --groups avault-operators NAME, and log in again"


def enable(service: str, *, changed: bool) -> Iterator[str]:
    """Have the units start with their manager, and now."""
    if changed:
        tell(words(service, "daemon-reload"))
    if all(manager.starts_at_boot(unit, service) for unit in UNITS[service]):
        yield "unchanged: enabled"
    else:
        tell(words(service, "enable", *UNITS[service]))
        yield f"enabled: {', '.join(UNITS[service])}"
    running = manager.ask(words(service, "is-active", UNITS[service][0])) == "active"
    # What failed too often, for a mistake in the settings, say, would not be started again for a while.
    manager.ask(words(service, "reset-failed", *UNITS[service]))
    tell(words(service, "start", *UNITS[service][1:], UNITS[service][0]))
    if not running:
        yield f"started: {UNITS[service][0]}"
    elif changed:
        again = " ".join(words(service, "restart", UNITS[service][0]))
        yield f"it runs as before until: {again} (which locks the vault)"


def linger(*, wanted: bool) -> Iterator[str]:
    """Let the user's units start with the machine, if *wanted*."""
    name = manager.user_name()
    if manager.lingers(name):
        yield "unchanged: linger"
    elif wanted:
        try:
            tell(["loginctl", "enable-linger", name])
        except BadRequestError as error:
            raise BadRequestError(
                error.message, hint=f"as root, run: loginctl enable-linger {name}"
            ) from None
        yield f"linger: units of {name} start with the machine"
    else:
        yield f"no linger: it runs only while {name} is logged in; to change that: loginctl enable-linger"


def remove(found: Sequence[File], service: str) -> Iterator[str]:
    """Stop and disable the units, and remove the *found* files, but for those that somebody edited."""
    there = [
        unit for unit in UNITS[service] if any(f.path.name == unit and f.there() is not None for f in found)
    ]
    if there:
        tell(words(service, "disable", "--now", *there))
        yield f"stopped and disabled: {', '.join(there)}"
    for file in found:
        state = file.state()
        if state == "edited":
            yield f"left, since it was edited: {file.path}"
        elif state != "new":
            file.path.unlink()
            yield f"removed: {file.path}"
    tell(words(service, "daemon-reload"))
    yield "the vault, the record and the settings stay where they are"
