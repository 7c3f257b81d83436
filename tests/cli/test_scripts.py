"""Every script of this folder, each with a daemon of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.daemon import CHEAP, CONFIG, running_daemon
from support.script import Script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
DEAR = {"init", "new-machine", "start"}
"""They are about the cost of a passphrase, or about daemons that a command starts."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path, tmp_path: Path) -> None:
    command, config = ((), CONFIG) if script.stem in DEAR else (CHEAP, "")
    with running_daemon(tmp_path, command=command, config=config) as daemon:
        Script(script.read_text(), daemon).run()


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("avault nope", "it is not so"),
        ("! avault --help", "it is not so"),
        ("avault --help\nexit 3", "line 2: exit 3"),
        ("avault --help\n! stdout usage", "it is not so"),
        ("avault --help\nstdout nonsense", "it is not so"),
        ("frobnicate", "no such word: frobnicate"),
        ("! stdin a\n-- a --\n", "stdin cannot be negated"),
        ("avault --help\ncmp stdout a\n-- a --\nx\n", "it is not so"),
        ("exit 0", "nothing was run yet"),
        ("shell 'echo Traceback >&2'", "a traceback"),
    ],
)
def test_a_script_that_does_not_hold_fails(lines: str, complaint: str, tmp_path: Path) -> None:
    from support.daemon import RunningDaemon

    daemon = RunningDaemon(tmp_path, env={"PATH": "/usr/bin:/bin"})
    with pytest.raises(AssertionError, match=complaint):
        Script(lines, daemon).run()
