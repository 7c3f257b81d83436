"""The units: enabled, running, and there after a boot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from avault_client.cli.service import manager
from avault_client.cli.service.manager import ROOT, UNITS

from .finding import Finding, fail, ok, warn

Is = Callable[[str, str], bool]
"""What is asked of a unit, and whose manager's it is."""


def findings(
    service: str,
    pid: int | None,
    root: Path = ROOT,
    enabled: Is = manager.starts_at_boot,
    listens: Is = manager.listens,
) -> Iterator[Finding]:
    """Yield what there is to say of the units of *service* ("user" or "system"); *pid* is the daemon's."""
    if not manager.is_here(root):
        yield warn("service", "no systemd here: something else must start avaultd after a boot")
        return
    missing = [unit for unit in UNITS[service] if not enabled(unit, service)]
    if missing:
        yield warn(
            "service", f"not enabled: {', '.join(missing)}", f"run: avault install-service --{service}"
        )
    else:
        yield _listening(service, listens)
    if pid is not None and not missing:
        yield _run_by(UNITS[service][0], pid, root)
    if service == "user":
        yield linger(manager.user_name(), root)


def _listening(service: str, listens: Is) -> Finding:
    """Look whether the sockets of units that are enabled are there: those of a service that failed too often are not."""
    unit, *sockets = UNITS[service]
    deaf = [one for one in sockets if not listens(one, service)]
    if not deaf:
        return ok("service", f"enabled: {unit}, {', '.join(sockets)}")
    status, stop = (" ".join(manager.words(service, word, unit)) for word in ("status", "stop"))
    return fail(
        "service",
        f"not listening: {', '.join(deaf)}",
        f"{status} may say why; then run: {stop}; avault install-service --{service}",
    )


def _run_by(unit: str, pid: int, root: Path) -> Finding:
    try:
        if manager.runs(pid, unit, root):
            return ok("started by", unit)
    except OSError as error:
        return warn("started by", f"not to be seen: {(error.strerror or '?').lower()}")
    return warn("started by", f"not by {unit}", "stop it; then: avault install-service")


def linger(name: str, root: Path = ROOT) -> Finding:
    """Look whether the units of user *name* start with the machine, or only at login, and end with the last logout."""
    if manager.lingers(name, root):
        return ok("linger", f"units of {name} start with the machine")
    return warn("linger", f"units of {name} run only while logged in", "run: loginctl enable-linger")
