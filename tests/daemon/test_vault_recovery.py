"""The user is not our hostage: a vault, a passphrase and third-party software give back every secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from avault_daemon.callers.policy import Agent, Selectors
from support.vaults import CHEAP, PASSPHRASE, make_vault

RECOVERY = Path(__file__).parents[1] / "support" / "recovery.py"
VALUES: dict[str, str | bytes] = {
    "TOKEN": "the newest value",
    "LONGEST": "x" * 32768,
    "BLOB": b"AAECAwQ=",
    "ODD": 'schlüssel 🔑\n{"type":"secret"}\n\0',
}
GRANTS: dict[str, Any] = {"cobot": {"plugins": {"telegram": {"TOKEN": {}}}}}


def recovered(path: Path, passphrase: str) -> tuple[dict[str, list[list[Any]]], dict[str, Any]]:
    """Let another program read the vault; return its secrets' versions, and its agents."""
    command = [sys.executable, "-P", str(RECOVERY), str(path)]
    run = subprocess.run(command, input=passphrase, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    return found["secrets"], found["agents"]


async def test_third_party_software_recovers_every_secret(tmp_path: Path) -> None:
    place, vault = await make_vault(tmp_path)
    await place.put(vault, TOKEN="an earlier value", GONE="gone")
    await place.put(vault, **VALUES)
    await vault.put_agent(Agent("cobot", Selectors(uids=[1001])).with_grants("telegram", ["TOKEN"]))
    await vault.rm("GONE")
    await place.put(vault, LATER="appended behind the compaction")
    copy = tmp_path / "copy"
    with copy.open("wb") as file, place.secret("passphrase of the copy") as given:
        await vault.export(file.fileno(), given, CHEAP)
    vault.close()
    for path, passphrase in ((place.file, PASSPHRASE), (copy, "passphrase of the copy")):
        secrets, agents = recovered(path, passphrase)
        assert secrets["TOKEN"] == [[1, "text", "an earlier value"], [2, "text", "the newest value"]]
        assert {name: versions[-1][2] for name, versions in secrets.items()} == {
            **{name: value if isinstance(value, str) else value.decode() for name, value in VALUES.items()},
            "LATER": "appended behind the compaction",
        }
        assert secrets["BLOB"][0][1] == "base64"
        assert agents == GRANTS


def test_what_recovers_them_imports_nothing_of_ours() -> None:
    assert "avault_" not in RECOVERY.read_text(encoding="utf-8")
