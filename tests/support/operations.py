"""What a program may try from inside the daemon's process, and what the daemon itself needs there.

``python operations.py HOME OUTSIDE ABSTRACT`` tries every operation of `FORBIDDEN`, confines itself, tries them again,
and then does everything of `NEEDED`; it prints the outcomes as JSON. Each operation is harmless where it succeeds.
OUTSIDE is a directory with a file ``secret``; ABSTRACT the name of a listening abstract socket of another process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import pwd
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import trio

from avault_daemon import confine
from avault_daemon.callers.caller import credentials, identify
from avault_daemon.confine import landlock
from avault_daemon.confine.seccomp import AUDIT_ARCH, NUMBERS, REFUSED

HOME, OUTSIDE, ABSTRACT = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
_COLUMN = list(AUDIT_ARCH).index(platform.machine())
_libc = ctypes.CDLL(None, use_errno=True)
Operation = Callable[[], object]


def syscall(name: str, *arguments: int | bytes | None) -> int:
    """Make the system call *name*, OSError as usual."""
    number = (REFUSED.get(name) or NUMBERS[name])[_COLUMN]
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def fresh() -> str:
    return os.urandom(8).hex()


def fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone() -> None:
    if (pid := syscall("clone", signal.SIGCHLD, 0, 0, 0, 0)) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def open_socket(*arguments: int) -> None:
    socket.socket(*arguments).close()


def connect_path() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(OUTSIDE / "bus"))


def connect_abstract() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + ABSTRACT)


def move_out() -> None:
    (HOME / "moved").write_text("")
    (HOME / "moved").rename(OUTSIDE / "moved")


def own_dumpable() -> None:
    syscall("prctl", 4, 0, 0, 0, 0)


# Arguments are such that a privileged process fails with another errno, or does what changes nothing.
FORBIDDEN: dict[str, Operation] = {
    "read a file outside": lambda: (OUTSIDE / "secret").read_bytes(),
    "list a directory outside": lambda: os.listdir(OUTSIDE),
    "make a file outside": lambda: (OUTSIDE / fresh()).write_text(""),
    "truncate a file outside": lambda: os.truncate(OUTSIDE / "secret", 6),
    "remove a file outside": lambda: (OUTSIDE / "victim").unlink(),
    "make a directory outside": lambda: (OUTSIDE / fresh()).mkdir(),
    "move a file outside": move_out,
    "write into /etc": lambda: os.close(os.open("/etc/passwd", os.O_WRONLY)),
    "open a device": lambda: os.close(os.open("/dev/null", os.O_WRONLY)),
    "make a symbolic link at home": lambda: (HOME / fresh()).symlink_to("/"),
    "make a pipe at home": lambda: os.mkfifo(HOME / fresh()),
    "run a program (subprocess)": lambda: subprocess.run(["/bin/true"], check=True),
    "run a program (posix_spawn)": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "become a program": lambda: os.execv("/nonexistent", ["nonexistent"]),
    "become a program by descriptor": lambda: syscall("execveat", -1, b"nonexistent", None, None, 0),
    "fork": fork,
    "clone": clone,
    "ptrace": lambda: syscall("ptrace", 1, 0, 0, 0),
    "read another process": lambda: syscall("process_vm_readv", os.getppid(), None, 0, None, 0, 0),
    "write another process": lambda: syscall("process_vm_writev", os.getppid(), None, 0, None, 0, 0),
    "take a descriptor of another process": lambda: syscall("pidfd_getfd", -1, 0, 0),
    "signal another process": lambda: os.kill(os.getppid(), 0),
    "see what program another process runs": lambda: os.readlink(f"/proc/{os.getppid()}/exe"),
    "personality": lambda: syscall("personality", 0xFFFFFFFF),
    "be dumpable": own_dumpable,
    "memfd_create": lambda: os.close(os.memfd_create("probe")),
    "userfaultfd": lambda: syscall("userfaultfd", 1),
    "io_uring": lambda: syscall("io_uring_setup", 0, None),
    "bpf": lambda: syscall("bpf", -1, None, 0),
    "shared memory": lambda: syscall("shmget", 0x61766175, 0, 0),
    "attach shared memory": lambda: syscall("shmat", -1, None, 0),
    "a semaphore": lambda: syscall("semget", 0x61766175, 0, 0),
    "a message queue": lambda: syscall("msgget", 0x61766175, 0),
    "a POSIX message queue": lambda: syscall("mq_open", b"avault-no-such-queue", 0, 0, None),
    "an extended attribute": lambda: os.setxattr(OUTSIDE / "nonexistent", "user.probe", b""),
    "perf_event_open": lambda: syscall("perf_event_open", None, 0, 0, 0, 0),
    "kexec_load": lambda: syscall("kexec_load", 0, 0, None, -1),
    "load a module": lambda: syscall("finit_module", -1, None, 0),
    "remove a module": lambda: syscall("delete_module", b"no_such_module_here", 0),
    "reboot": lambda: syscall("reboot", 0, 0, 0, None),
    "swapon": lambda: syscall("swapon", b"/nonexistent", 0),
    "set the clock": lambda: syscall("clock_settime", -1, None),
    "add a key": lambda: syscall("add_key", None, None, None, 0, 0),
    "use a keyring": lambda: syscall("keyctl", -1, 0, 0, 0, 0),
    "a user namespace": lambda: syscall("unshare", 0),
    "enter a namespace": lambda: syscall("setns", -1, 0),
    "mount": lambda: syscall("mount", None, b"/nonexistent", None, 0, None),
    "unmount": lambda: syscall("umount2", b"/nonexistent", 0),
    "chroot": lambda: os.chroot("/nonexistent"),
    "open a tree": lambda: syscall("open_tree", -1, b"nonexistent", 1),
    "a file by handle": lambda: syscall("open_by_handle_at", -1, None, 0),
    "an IPv4 socket": lambda: open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "an IPv6 socket": lambda: open_socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "a netlink socket": lambda: open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a packet socket": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "a pair of IPv4 sockets": lambda: syscall("socketpair", socket.AF_INET, 1, 0, None),
    "connect to an abstract socket": connect_abstract,
    "connect to a socket that has a path": connect_path,
    "type into the terminal": lambda: fcntl.ioctl(0, 0x5412, b"x"),
    "clone3": lambda: syscall("clone3", None, 0),  # ENOSYS, so that C libraries fall back to clone
}


def store() -> None:
    with (HOME / "new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write("kept")
        os.fdatasync(file.fileno())
    (HOME / "new").rename(HOME / "kept")
    directory = os.open(HOME, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    os.truncate(HOME / "kept", 2)
    assert (HOME / "kept").read_text() == "ke"
    (HOME / "kept").unlink()
    (HOME / "agents").mkdir()
    (HOME / "agents").rmdir()


def start_client() -> int:
    """Start, while that may be done, another process that connects to the socket of `serve`; return its pid."""
    if pid := os.fork():
        return pid
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(str(HOME / "agent.sock")):
            os.sched_yield()
        assert client.recv(5) == b"hello"
        client.send(b"thank")
    os._exit(0)


CLIENT = start_client()


def serve() -> None:
    async def echo() -> None:
        path = HOME / "agent.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
            await trio.lowlevel.wait_readable(listener)
            server, _ = listener.accept()
            with server:
                caller, process = identify(server, credentials(server), None)
                process.close()
                assert (caller.pid, caller.uid) == (CLIENT, os.getuid())
                server.send(b"hello")
                await trio.lowlevel.wait_readable(server)
                assert server.recv(5) == b"thank"
        path.unlink()

    trio.run(echo)


def threads() -> None:
    async def several() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, os.getpid)

    trio.run(several)


def refused_in_a_thread() -> None:
    async def read() -> None:
        try:
            await trio.to_thread.run_sync((OUTSIDE / "secret").read_bytes)
        except PermissionError:
            return
        raise AssertionError("a thread that was started later is free")

    trio.run(read)


def secret_memory() -> None:
    descriptor = _libc.syscall(447, 0)
    if descriptor < 0 and ctypes.get_errno() == errno.ENOSYS:
        return  # the kernel has none, confined or not
    os.ftruncate(descriptor, 4096)
    with mmap.mmap(descriptor, 4096) as memory:
        memory[:5] = b"value"
    os.close(descriptor)


def cryptography() -> None:
    import coincurve
    from nacl import bindings

    assert len(coincurve.PrivateKey(b"\1" * 32).sign_schnorr(b"\2" * 32, b"\3" * 32)) == 64
    assert len(bindings.crypto_pwhash_scryptsalsa208sha256_ll(b"passphrase", b"salt", 2**14, 8, 1, 32)) == 32


def look_around() -> None:
    assert Path("/proc/1/stat").read_bytes()
    assert Path("/proc/1/cgroup").read_bytes()
    assert pwd.getpwuid(0).pw_name == "root"
    descriptor = os.pidfd_open(os.getppid())
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert not poll.poll(0)
    os.close(descriptor)


def pair() -> None:
    for one in socket.socketpair():
        one.close()


def import_late() -> None:
    for name in ("colorsys", "pycparser"):
        assert name not in sys.modules
        __import__(name)


NEEDED: dict[str, Operation] = {
    "store": store,
    "serve": serve,
    "threads": threads,
    "refused in a thread": refused_in_a_thread,
    "secret memory": secret_memory,
    "cryptography": cryptography,
    "look around": look_around,
    "import late": import_late,
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "a pair of sockets": pair,
    "traced": lambda: confine.traced(),
}


def errno_of(operation: Operation) -> int:
    """Return how *operation* fails, 0 if it does not."""
    try:
        operation()
    except OSError as error:
        return error.errno or -1
    return 0


def error_of(operation: Operation) -> str:
    """Return the traceback of *operation*, empty if it succeeds."""
    try:
        operation()
    except Exception:  # noqa: BLE001 - a report of whatever it is
        return traceback.format_exc()
    return ""


def main() -> None:
    confine.first()
    before = {name: errno_of(operation) for name, operation in FORBIDDEN.items()}
    if not (OUTSIDE / "victim").exists():
        (OUTSIDE / "victim").touch()
    force = confine.confine(write=[str(HOME)], read=[])
    after = {name: errno_of(operation) for name, operation in FORBIDDEN.items()}
    needed = {name: error_of(operation) for name, operation in NEEDED.items()}
    try:
        abi = landlock.version()
    except landlock.Unavailable:
        abi = 0
    json.dump({"before": before, "after": after, "needed": needed, "force": force, "abi": abi}, sys.stdout)


if __name__ == "__main__":
    main()
