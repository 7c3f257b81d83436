"""The system calls that the daemon gives up for good: a filter of classic BPF, made by a small assembler of our own.

A list of what is refused, not of what is allowed: what an interpreter, its C library and the kernel do among themselves
changes from release to release, and a daemon that dies of a new `futex2` protects nobody. What is refused is what leads
out of the process or into others: other programs, other processes, other namespaces, other networks, the kernel.

Every refusal is an errno (EPERM; ENOSYS for `clone3`, whose arguments a filter cannot see, so that C libraries fall
back to `clone`), never a kill: a library that tries something harmless goes on.

Sources: seccomp(2), Documentation/userspace-api/seccomp_filter.rst, linux/seccomp.h, linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# One instruction: code, jump if true, jump if false, constant (struct sock_filter).
Instruction = tuple[int, int, int, int]

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]
NUMBER = 0
ARCHITECTURE = 4

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO
REFUSE = _ERRNO | errno.EPERM
ABSENT = _ERRNO | errno.ENOSYS

X32_BIT = 0x40000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: number on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h), -1 where there is none.
NUMBERS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
REFUSED = {
    # other programs, other processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "personality": (135, 92),
    # code or values where nobody looks
    "memfd_create": (319, 279),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),  # its operations pass by every filter
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # what others read and write too, and what outlives us; Landlock knows of none of these
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    # the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "syslog": (103, 116),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "modify_ldt": (154, -1),
    # keyrings, whose keys outlive us
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces and mounts (a user namespace would undo PR_SET_DUMPABLE)
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "vhangup": (153, 58),
}

CLONE_THREAD = 0x00010000
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
PR_SET_DUMPABLE, PR_SET_PTRACER = 4, 0x59616D61  # either would let others in again
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # type into the terminal that the daemon was started from

PR_GET_SECCOMP, PR_SET_SECCOMP = 21, 22
_MODE_FILTER = 2


class UnsupportedArchitecture(OSError):
    """There is no table of system calls for this machine."""


class Unavailable(OSError):
    """This kernel was built without seccomp filters."""


def machine() -> str:
    """Return the architecture of this *process*; `UnsupportedArchitecture` if its numbers are not known here."""
    name = os.uname().machine
    if name not in AUDIT_ARCH or sys.maxsize < 2**32:  # a 32-bit process on a 64-bit kernel has other numbers
        raise UnsupportedArchitecture(errno.ENOSYS, f"no table of system calls for {name}, {_bits()} bits")
    return name


def program(architecture: str, *, network: bool) -> list[Instruction]:
    """Return the filter for *architecture* (a key of `AUDIT_ARCH`); *network* lets AF_INET and AF_INET6, and
    connections to anywhere, through.

    Arguments are compared in their low 32 bits, the ones that the kernel reads of these (int, unsigned int, and the
    flags of clone).
    """
    column = list(AUDIT_ARCH).index(architecture)
    domains = (AF_UNIX, AF_INET, AF_INET6) if network else (AF_UNIX,)
    numbers = {name: both[column] for name, both in NUMBERS.items()}
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[architecture]),
        (RETURN, 0, 0, REFUSE),  # the numbers mean other calls there
        (LOAD, 0, 0, NUMBER),
    ]
    if architecture == "x86_64":
        code += [(JUMP_GREATER_EQUAL, 0, 1, X32_BIT), (RETURN, 0, 0, REFUSE)]
    for both in REFUSED.values():
        if both[column] >= 0:
            code += _on(both[column], [(RETURN, 0, 0, REFUSE)])
    code += _on(numbers["clone3"], [(RETURN, 0, 0, ABSENT)])
    code += _on(numbers["clone"], [_argument(0), (JUMP_ANY_BIT, 0, 1, CLONE_THREAD), _allow(), _refuse()])
    if not network:
        # Landlock lets sockets that have a path be connected to: the session bus, say, which starts programs.
        code += _on(numbers["connect"], [_refuse()])
    code += _on(numbers["socket"], _only(0, domains))
    code += _on(numbers["socketpair"], _only(0, domains))
    code += _on(numbers["prctl"], _never(0, (PR_SET_DUMPABLE, PR_SET_PTRACER)))
    code += _on(numbers["ioctl"], _never(1, (TIOCSTI, TIOCLINUX)))
    return [*code, _allow()]


def apply(*, network: bool) -> None:
    """Install the filter on the calling thread, and so on every thread and child that it will have. For good.

    Needs PR_SET_NO_NEW_PRIVS. `UnsupportedArchitecture`, `Unavailable`; any other OSError: the kernel refused.
    """
    if _prctl(PR_GET_SECCOMP, 0, None) < 0:
        raise Unavailable(ctypes.get_errno(), "this kernel has no seccomp")
    install(program(machine(), network=network))


def install(code: list[Instruction]) -> None:
    """Put *code* in force on the calling thread; OSError if the kernel refuses it."""
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    header = struct.pack("@HP", len(code), ctypes.addressof(instructions))  # struct sock_fprog
    if _prctl(PR_SET_SECCOMP, _MODE_FILTER, header):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, argument: int, pointer: bytes | None) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, argument, pointer, 0, 0))


def _bits() -> int:
    return 64 if sys.maxsize > 2**32 else 32


def _on(number: int, block: list[Instruction]) -> list[Instruction]:
    """Run *block*, which ends in a return on every way, if the call is *number*; the number stays loaded otherwise."""
    return [(JUMP_EQUAL, 0, len(block), number), *block]


def _only(argument: int, allowed: tuple[int, ...]) -> list[Instruction]:
    tests = [one for value in allowed for one in ((JUMP_EQUAL, 0, 1, value), _allow())]
    return [_argument(argument), *tests, _refuse()]


def _never(argument: int, refused: tuple[int, ...]) -> list[Instruction]:
    tests = [one for value in refused for one in ((JUMP_EQUAL, 0, 1, value), _refuse())]
    return [_argument(argument), *tests, _allow()]


def _argument(index: int) -> Instruction:
    return (LOAD, 0, 0, 16 + 8 * index)  # both architectures are little-endian: the low half comes first


def _allow() -> Instruction:
    return (RETURN, 0, 0, ALLOW)


def _refuse() -> Instruction:
    return (RETURN, 0, 0, REFUSE)
