"""The filter is run here by an interpreter of its own, for both architectures, against what it is meant to say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_daemon.confine import seccomp
from avault_daemon.confine.seccomp import ABSENT, ALLOW, AUDIT_ARCH, NUMBERS, REFUSE, REFUSED

Arguments = tuple[int, ...]
HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}
architectures = pytest.mark.parametrize("architecture", list(AUDIT_ARCH))


def run(code: list[seccomp.Instruction], number: int, audit_arch: int, arguments: Arguments) -> int:
    """Return what *code* returns, as the kernel's interpreter would (linux/filter.h); fail if it runs off the end."""
    words = [number, audit_arch, 0, 0]
    for argument in arguments:
        words += [argument & 0xFFFFFFFF, argument >> 32]
    accumulator = at = 0
    while True:
        what, true, false, constant = code[at]
        at += 1
        if what == seccomp.RETURN:
            return constant
        if what == seccomp.LOAD:
            accumulator = words[constant // 4]
            continue
        taken = {
            seccomp.JUMP_EQUAL: accumulator == constant,
            seccomp.JUMP_GREATER_EQUAL: accumulator >= constant,
            seccomp.JUMP_ANY_BIT: bool(accumulator & constant),
        }[what]
        at += true if taken else false


def expected(architecture: str, number: int, arguments: Arguments, *, network: bool) -> int:
    """The filter's meaning, said once more in another way."""
    column = list(AUDIT_ARCH).index(architecture)
    names = {both[column]: name for name, both in {**NUMBERS, **REFUSED}.items() if both[column] >= 0}
    low = [argument & 0xFFFFFFFF for argument in arguments]
    name = names.get(number, "")
    if name in REFUSED or (architecture == "x86_64" and number >= 0x40000000):
        return REFUSE
    return {
        "clone3": ABSENT,
        "connect": ALLOW if network else REFUSE,
        "clone": ALLOW if low[0] & 0x10000 else REFUSE,
        "socket": ALLOW if low[0] in ((1, 2, 10) if network else (1,)) else REFUSE,
        "socketpair": ALLOW if low[0] in ((1, 2, 10) if network else (1,)) else REFUSE,
        "prctl": REFUSE if low[0] in (4, 0x59616D61) else ALLOW,
        "ioctl": REFUSE if low[1] in (0x5412, 0x541C) else ALLOW,
    }.get(name, ALLOW)


known = st.sampled_from([both[column] for both in {**NUMBERS, **REFUSED}.values() for column in (0, 1)])
numbers = st.one_of(known.filter(lambda number: number >= 0), st.integers(0, 600), st.integers(0, 2**32 - 1))
words = st.one_of(
    st.sampled_from([0, 1, 2, 4, 10, 16, 17, 0x5412, 0x541C, 0x59616D61, 0x10000, 0x3D0F00]),
    st.integers(0, 2**64 - 1),
)
arguments = st.tuples(*[words] * 6)


@architectures
@given(number=numbers, arguments=arguments, network=st.booleans())
def test_the_filter_means_what_it_should(
    architecture: str, number: int, arguments: Arguments, network: bool
) -> None:
    code = seccomp.program(architecture, network=network)
    result = run(code, number, AUDIT_ARCH[architecture], arguments)
    assert result == expected(architecture, number, arguments, network=network)


@architectures
@given(number=numbers, arguments=arguments, other=st.integers(0, 2**32 - 1))
def test_another_architecture_gets_nothing(
    architecture: str, number: int, arguments: Arguments, other: int
) -> None:
    code = seccomp.program(architecture, network=True)
    if other != AUDIT_ARCH[architecture]:
        assert run(code, number, other, arguments) == REFUSE


@architectures
def test_the_program_fits_the_kernel(architecture: str) -> None:
    code = seccomp.program(architecture, network=True)
    assert len(code) < 4096  # BPF_MAXINSNS
    assert all(0 <= true < 256 and 0 <= false < 256 for _, true, false, _ in code)


@architectures
def test_the_numbers_are_the_kernels(architecture: str) -> None:
    header, pattern = HEADERS[architecture]
    if not header.exists():
        pytest.skip(f"no {header} here to compare with")
    theirs = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    column = list(AUDIT_ARCH).index(architecture)
    for name, both in {**NUMBERS, **REFUSED}.items():
        assert both[column] == theirs.get(name, -1), name


def test_a_machine_without_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("", (), {"machine": "vax"}))
    with pytest.raises(seccomp.UnsupportedArchitecture, match="vax"):
        seccomp.machine()


def test_a_32_bit_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    with pytest.raises(seccomp.UnsupportedArchitecture, match="32 bits"):
        seccomp.machine()
