"""What the process forbids itself, for good.

`first` is the first statement of the process: before it, anybody of the same uid may open its memory, and keeps it open
for ever; so this module imports next to nothing. `confine` comes when the directories are known, and before the first
thread: Landlock and seccomp bind the thread that asks and those that it starts later.

Not by namespaces: in a user namespace the owner of the namespace may trace and read whatever runs there, so that it
would undo `first`.

Sources: PR_SET_DUMPABLE(2const), prctl(2), core(5), landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 3, 4, 38

# Where the kernel, the C library and the interpreter look things up while the daemon runs.
_SYSTEM = ("/proc", "/etc", "/usr", "/lib", "/lib64")
# What /etc/resolv.conf leads to, and what links in /etc/ssl may lead to.
_RESOLVER = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/var/lib/ca-certificates")


def first() -> None:
    """Forbid processes of the same uid to read, trace or take descriptors from this one, and forbid core dumps.

    OSError if the kernel does not keep to it. Undone by execve(2), hence before anything else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE had no effect")
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 0)
    )  # a core(5) pattern with a pipe ignores it, but not the above


def traced() -> bool:
    """Report whether a debugger is attached: one that came before `first` stays, and may make us do anything."""
    with open("/proc/self/status", "rb") as status:
        return any(line.startswith(b"TracerPid:") and line.split()[1] != b"0" for line in status)


def confine(write: list[str], read: list[str], *, network: bool = False) -> str:
    """Keep this process, its threads to come and everything in them, to what it is for; return what is in force.

    Files: work below *write*, read below *read* (the directory of the settings), `_SYSTEM` and the interpreter. Nothing
    else opens, though what is open stays so. Calls: see `seccomp`. Sockets: AF_UNIX; with *network* (it cannot be
    loosened later) AF_INET and AF_INET6 too, to connect. The answer is such as "landlock 7, seccomp"; "seccomp only"
    where the kernel has no Landlock.

    `InternalError` if something that the kernel offers could not be applied (the process may be confined in part
    then, and should end), or if there is a thread already.
    """
    import contextlib

    from avault_protocol import InternalError

    from . import landlock, seccomp

    if len(os.listdir("/proc/self/task")) != 1:
        raise InternalError("a thread runs already, and would stay free")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise InternalError("PR_SET_NO_NEW_PRIVS had no effect")
    readable = [*read, *_SYSTEM, *interpreter(), *((*_RESOLVER, *certificates()) if network else ())]
    force: list[str] = []
    try:
        with contextlib.suppress(landlock.Unavailable):
            force.append(f"landlock {landlock.apply(readable, write, network=network)}")
        with contextlib.suppress(seccomp.Unavailable):
            seccomp.apply(network=network)
            force.append("seccomp")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        raise InternalError(
            f"the daemon could not confine itself: {what}",
            hint="what runs it (a container, SystemCallFilter=) must allow prctl, seccomp and landlock_*",
        ) from error
    return ", ".join(force) if len(force) > 1 else f"{force[0]} only" if force else "nothing"


def networked() -> bool:
    """Report whether this process may open sockets of the internet, which what runs it may forbid as well as `confine`."""
    import errno
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.socket(family).close()
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES):
                continue
        return True
    return False


def certificates() -> list[str]:
    """Return the directories of the authorities that TLS trusts: those of SSL_CERT_FILE and SSL_CERT_DIR, or OpenSSL's."""
    import ssl

    paths = ssl.get_default_verify_paths()
    file = os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile
    folders = os.environ.get(paths.openssl_capath_env) or paths.openssl_capath
    found = {os.path.dirname(file), os.path.dirname(os.path.realpath(file))}
    found.update(one for folder in folders.split(":") for one in (folder, os.path.realpath(folder)))
    return sorted(found - {"", "/"})


def interpreter() -> list[str]:
    """Return the directories that modules are, and may yet be, imported from.

    Not all of ``sys.path``: its first entry may be where the daemon was started, somebody's home. Packages that are
    installed as editable lie anywhere, so those that are loaded count, by their own directories.
    """
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    roots.update(path for path in sys.path if path.endswith(("-packages", "lib-dynload")))
    for name, module in list(sys.modules.items()):
        if "." not in name:
            roots.update(getattr(module, "__path__", ()))
    return sorted(root for root in roots if root and root != "/")
