"""Whole processes, from fork to exit, beside the interpreter that does nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from support.daemon import BIN

from . import turns
from .peers import SECRET_SERVICE
from .stage import NAME, PLUGIN, Stage, stage

ROUNDS = 41
NOTHING = (sys.executable, "-c", "pass")
# Its emptiest backend, which looks nowhere and finds nothing: what any other takes, it takes besides.
EMPTY = (str(BIN / "keyring"), "--keyring-backend", "keyring.backends.null.Keyring", "get", "cobot", NAME)
KEYRING = (
    str(BIN / "keyring"),
    "--keyring-backend",
    "keyring.backends.SecretService.Keyring",
    "get",
    "cobot",
    NAME,
)
SCRIPT = f"""
from avault_client import Vault
with Vault(agent="cobot", plugin="{PLUGIN}", secrets=["{NAME}"]) as vault:
    vault.get_secret("{NAME}").reveal()
"""


def run(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run *command* to its end, its output thrown away."""
    out = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status = os.waitpid(os.posix_spawn(command[0], [*command], env, file_actions=out), 0)
    assert os.waitstatus_to_exitcode(status) == (1 if command is EMPTY else 0), command


def compare(
    on: Stage,
    what: str,
    command: Sequence[str],
    peer: Sequence[str] = NOTHING,
    more: Mapping[str, str] | None = None,
) -> None:
    """Print how long *command* takes beside *peer*, both with the environment that finds the daemon, and *more*."""
    env = {**on.service.daemon.env, **(more or {})}
    compared = turns.in_turns(
        turns.once(partial(run, command, env)), turns.once(partial(run, peer, env)), ROUNDS
    )
    print(compared.line(what, "ms", 1e3))


def status() -> None:
    """`avault status`; the peer is ``python -c pass``."""
    with stage() as on:
        compare(on, "avault status / python -c pass", [str(BIN / "avault"), "status"])


def script() -> None:
    """A script that gets one secret by the library; the peers are ``python -c pass`` and, twice, ``keyring get``."""
    with stage() as on:
        ours = [sys.executable, "-c", SCRIPT]
        compare(on, "script with one get / python -c pass", ours)
        compare(on, "script with one get / keyring get, empty backend", ours, EMPTY)
        if missing := SECRET_SERVICE.missing():
            print(f"script with one get / keyring get: not measured; install {', '.join(missing)}")
            return
        with SECRET_SERVICE.running(on.folder):
            bus = {"DBUS_SESSION_BUS_ADDRESS": os.environ["DBUS_SESSION_BUS_ADDRESS"]}
            compare(on, "script with one get / keyring get, Secret Service", ours, KEYRING, bus)
