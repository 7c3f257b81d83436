"""The daemon as a process: how it ends."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from support.daemon import BIN, running_daemon
from support.house import PASSPHRASE


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_what_stops_it_locks_it_on_record(tmp_path: Path, signum: signal.Signals) -> None:
    with running_daemon(tmp_path) as daemon:
        assert daemon.avault("init", passphrase=PASSPHRASE).returncode == 0
        assert daemon.stop(signum) == 0
        lines = (daemon.state_dir / "audit.jsonl").read_bytes().splitlines()
        last = [entry for line in lines if "decision" in (entry := json.loads(line))][-1]
        assert (last["action"], last["decision"]) == ("lock", "note")
        assert last["reason"] == f"stopping on {signum.name}"
        daemon.start()
        assert json.loads(daemon.avault("audit", "--verify", "--json").stdout)["ok"] is True
        shown = daemon.avault("audit").stdout.decode()
        assert f"stopping on {signum.name}" in shown


def test_a_daemon_that_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    with running_daemon(tmp_path, command=("nohup", str(BIN / "avaultd"))) as daemon:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.avault("status").returncode == 0
        assert daemon.process.poll() is None


COUNTING = """
import gc, sys, trio
from avault_daemon.main import main
run = trio.run
def counted(*arguments):
    print("frozen:", gc.get_freeze_count(), file=sys.stderr, flush=True)
    return run(*arguments)
trio.run = counted
main()
"""


def test_the_collector_does_not_go_through_what_is_there_from_the_start(tmp_path: Path) -> None:
    (program := tmp_path / "counting.py").write_text(COUNTING)
    with running_daemon(tmp_path, command=(sys.executable, "-P", str(program))) as daemon:
        (line,) = [line for line in daemon.log.read_text().splitlines() if line.startswith("frozen:")]
        assert int(line.removeprefix("frozen:")) > 10_000
