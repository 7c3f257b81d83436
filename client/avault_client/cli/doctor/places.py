"""The directories and sockets: whose they are, and who may come there.

The modes are those of the table in the README; whoever may do more than that is a failure, less a warning.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from grp import getgrgid
from pathlib import Path

from avault_client.cli.service.manager import UNITS, words

from .finding import Finding, fail, ok, warn

MODES = {"user": (0o700, 0o600, 0o600), "system": (0o711, 0o666, 0o660)}
"""By service: of the directory, of the agents' socket, of the operator's."""
CREDENTIALS = 0o600
"""Of the socket from which systemd fetches credentials, in either."""
OPERATORS = "avault-operators"
ROOT_UID = 0


def findings(runtime: Path, home: Path, service: str, uid: int) -> Iterator[Finding]:
    """Yield what there is to say of the places of a daemon that runs as *uid*."""
    directory, agents, operator = MODES[service]
    yield place("directory", runtime, directory, uid)
    for kind, mode in (("agent", agents), ("operator", operator), ("credentials", CREDENTIALS)):
        yield socket_of(kind, runtime / f"{kind}.sock", mode, uid, service)
    if service == "system":
        yield operators(runtime / "operator.sock")
    yield private("vault directory", home, uid)
    yield private("vault file", home / "vault.jsonl", uid)


def socket_of(kind: str, path: Path, mode: int, uid: int, service: str) -> Finding:
    """Compare the socket at *path* with the *mode* that it should have; systemd makes it, or avaultd by itself."""
    [unit] = [unit for unit in UNITS[service] if unit.endswith(f"-{kind}.socket")]
    stop, again = (
        " ".join(words(service, *rest)) for rest in (("stop", UNITS[service][0]), ("restart", unit))
    )
    return place(f"{kind} socket", path, mode, uid, f"run: {stop}; {again}; without systemd: restart avaultd")


def place(what: str, path: Path, mode: int, uid: int, mend: str = "restart avaultd") -> Finding:
    """Compare *path* with the *mode* that it should have; if it is not there at all, the *mend* is ours."""
    try:
        status = path.stat()
    except OSError as error:
        return fail(what, f"{path}: {(error.strerror or '?').lower()}", mend)
    found = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (uid, ROOT_UID):
        return fail(what, f"{path} belongs to uid {status.st_uid}, avaultd is uid {uid}")
    if found & ~mode:
        return fail(what, f"{path} is open to others: mode {found:04o}", f"run: chmod {mode:04o} {path}")
    if mode & ~found:
        return warn(what, f"{path}: mode {found:04o} lets fewer in", f"run: chmod {mode:04o} {path}")
    return ok(what, f"{path}, mode {found:04o}, uid {status.st_uid}")


def operators(path: Path) -> Finding:
    """Look which group the operator's socket belongs to."""
    try:
        gid = path.stat().st_gid
        name = getgrgid(gid).gr_name
    except (OSError, KeyError) as error:
        return warn("operators", f"the group of {path} is not to be seen: {error}")
    if name != OPERATORS:
        return warn(
            "operators",
            f"{path} belongs to group {name}, not to {OPERATORS}",
            f"groupadd --system {OPERATORS}",
        )
    return ok("operators", f"who is in group {name}")


def private(what: str, path: Path, uid: int) -> Finding:
    """Look whether *path* is its owner's alone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ok(what, f"{path} is not there yet")
    except OSError:
        return ok(what, f"{path} is not open to uid {os.geteuid()}")
    if status.st_uid != uid:
        return fail(what, f"{path} belongs to uid {status.st_uid}, avaultd is uid {uid}")
    if status.st_mode & 0o077:
        found = stat.S_IMODE(status.st_mode)
        return fail(what, f"{path} is open to others: mode {found:04o}", f"run: chmod go-rwx {path}")
    return ok(what, f"{path}, mode {stat.S_IMODE(status.st_mode):04o}")
