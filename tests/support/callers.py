"""Callers, as the kernel would attest them."""

from avault_daemon.callers.policy import Caller


def make_caller(
    *,
    pid: int = 4711,
    uid: int = 1001,
    unit: str | None = None,
    exe: str | None = "/usr/bin/python3",
    socket_agent: str | None = None,
) -> Caller:
    """Return a caller; all but what matters to the test is made up."""
    return Caller(pid=pid, uid=uid, gid=uid, unit=unit, exe=exe, socket_agent=socket_agent, started=100 + pid)
