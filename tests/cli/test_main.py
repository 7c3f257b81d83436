"""What a run ends with, and how little it imports."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest

from avault_client import cli
from avault_client.cli.grammar import WrongUse
from avault_client.cli.session import Session
from avault_protocol import ERRORS, AvaultError
from support.daemon import BIN

HEAVY = {
    "argparse",
    "asyncio",
    "contextlib",
    "coincurve",
    "cryptography",
    "dataclasses",
    "enum",
    "getpass",
    "inspect",
    "json",
    "logging",
    "nacl",
    "pathlib",
    "re",
    "rich",
    "shlex",
    "socket",
    "subprocess",
    "tempfile",
    "trio",
    "typing",
}


def ending_with(error: BaseException) -> int:
    def work() -> int:
        raise error

    return cli.guarded(work)


@pytest.mark.parametrize("kind", ERRORS.values(), ids=lambda kind: kind.code)
def test_each_error_ends_with_its_status(kind: type[AvaultError], capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_with(kind("it broke", hint="mend it")) == kind.exit_status
    assert capsys.readouterr() == ("", "error: it broke\nhint: mend it\n")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (WrongUse("not so", "but so"), 2, "error: not so\nhint: but so\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a\nb"),
            1,
            "error: a\\nb: no such file or directory\n",
        ),
        (OSError("odd"), 1, "error: odd\n"),
    ],
)
def test_other_ends(error: BaseException, status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ending_with(error) == status
    assert capfd.readouterr().err == said


def test_a_reader_that_is_gone_is_no_error() -> None:
    command = f"{BIN}/avault --help | true; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr in ("141\n", "0\n")
    slow = "import sys, time; sys.stdout.write('x' * 200_000)"
    program = f"from avault_client import cli; import sys; cli.run = lambda *_: exec({slow!r}) or 0; sys.exit(cli.main())"
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | true', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_help_is_for_all_or_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"], Session()) == cli.run(["help"], Session()) == cli.run(["-h"], Session()) == 0
    assert "usage: avault COMMAND" in capsys.readouterr().out
    assert cli.run(["help", "slot", "add"], Session()) == cli.run(["slot", "add", "--help"], Session()) == 0
    assert capsys.readouterr().out.count("usage: avault slot add passphrase") == 2


def test_a_command_is_needed() -> None:
    with pytest.raises(WrongUse, match="no command"):
        cli.run([], Session())


@pytest.mark.parametrize("command", ["status", "secrets"])
def test_what_is_run_from_prompts_imports_little(command: str) -> None:
    """`avault status` and `avault get`, up to the daemon's answer; what the interpreter itself imports is no concern."""
    program = f"""
import sys
before = set(sys.modules)
from avault_client.cli import commands, run
from avault_client.cli.commands import {command}
print(*set(sys.modules) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def cost(*command: str) -> float:
    """Return the processor time of *command*, which other work on the machine disturbs least."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False, env={"AVAULT_RUNTIME_DIR": "/nowhere"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_run_costs_at_most_three_times_as_much_as_nothing() -> None:
    """The cheapest of many, so a compiled one: what a user has after the first run."""
    pairs = [(cost(sys.executable, "-c", "pass"), cost(str(BIN / "avault"), "status")) for _ in range(20)]
    nothing, status = map(min, zip(*pairs, strict=True))
    assert status < 3 * nothing, f"{status * 1000:.1f} ms against {nothing * 1000:.1f} ms"


@pytest.mark.parametrize("redirection", [">&-", "<&- >&-"])
def test_a_closed_standard_output_is_an_error(redirection: str) -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", f'"$0" --help {redirection}', BIN / "avault"],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (1, "error: standard output: bad file descriptor\n")
