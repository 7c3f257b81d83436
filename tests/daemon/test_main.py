"""The daemon as a process: how it ends."""

from __future__ import annotations

import json
import signal
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
