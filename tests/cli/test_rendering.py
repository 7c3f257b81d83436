"""How results look that a script cannot bring about at will."""

from __future__ import annotations

from typing import Any

import pytest

from avault_client.cli import selectors
from avault_client.cli.commands import find
from avault_client.cli.grammar import PROOF, Command
from avault_protocol import BadRequestError

SELECT = Command(
    "demo", "try", lambda session, parsed: None, options=(*selectors.SELECTORS, *PROOF), example="x"
)
REQUEST: dict[str, Any] = {
    "id": 12,
    "kind": "secret",
    "agent": "cobot",
    "plugin": "telegram",
    "names": ["TOKEN", "OTHER"],
    "reason": "",
    "pid": 4711,
    "uid": 1001,
    "unit": None,
    "exe": None,
    "since": 0,
}
STATUS: dict[str, Any] = {
    "state": "locked",
    "version": "0.1.0",
    "pid": 4711,
    "home": "/home/me/vault",
    "memory": {"kind": "memfd_secret", "mapped": False, "budget": 4 << 20, "in_use": 0},
    "confined": True,
    "service": "user",
    "boundary": "sandbox",
    "vault": "ab" * 32,
    "generation": 3,
    "secrets": None,
    "slots": 1,
    "agents": 2,
    "requests": 0,
    "record": {"number": 1, "ok": True},
    "phone": {
        "kind": "file",
        "where": "/state/pairing.json",
        "network": True,
        "proxy": None,
        "slots": 0,
        "relays": [],
    },
    "keyring": {"backend": None, "ok": False, "slots": 0},
    "lock_on": [],
    "warnings": [],
}


def lines(words: str, result: dict[str, Any]) -> list[str]:
    command, _ = find(words.split())
    assert command.lines is not None
    return list(command.lines(result))


def test_what_a_caller_says_of_itself_is_escaped() -> None:
    asked = {**REQUEST, "reason": "see \x1b[2Jhere\n", "exe": "/tmp/\u202egpj.sh", "unit": "a\tb.service"}
    [_, row] = lines("requests", {"requests": [asked]})
    assert row.isprintable()
    assert "see \\x1b[2Jhere\\n" in row
    assert "/tmp/\\u202egpj.sh" in row
    assert "a\\tb.service" in row


def test_the_name_that_an_unknown_caller_gives_itself_is_doubted() -> None:
    asked: dict[str, Any] = {**REQUEST, "kind": "agent", "agent": "cobot", "names": []}
    [_, row] = lines("requests", {"requests": [asked]})
    assert row.startswith("12  cobot?/telegram  to connect")
    [_, row] = lines("requests", {"requests": [{**asked, "agent": None, "plugin": None}]})
    assert row.startswith("12  unknown?/?")


def test_a_request_of_a_known_agent() -> None:
    [_, row] = lines("requests", {"requests": [REQUEST]})
    assert row.startswith("12  cobot/telegram  TOKEN, OTHER  ")
    assert row.endswith("d ago  pid 4711, uid 1001")


def test_a_locked_vault_tells_no_number_of_secrets() -> None:
    shown = lines("status", STATUS)
    assert "holds     1 slot, 2 agents" in shown
    assert "memory    memfd_secret, not mapped" in shown
    assert "confined  yes" in shown
    assert "record    1 line" in shown
    assert not [line for line in shown if line.startswith(("waiting", "warning"))]


def test_what_is_wrong_is_in_the_status() -> None:
    bad = {
        **STATUS,
        "confined": False,
        "record": {"number": 5, "ok": False},
        "requests": 2,
        "warnings": ["set aside\n", "two"],
    }
    shown = lines("status", bad)
    assert "confined  no" in shown
    assert "record    5 lines, NOT WORKING: nothing is served" in shown
    assert "waiting   2 requests: avault requests" in shown
    assert shown[-2:] == ["warning   set aside\\n", "warning   two"]


def test_phones_are_in_the_status_if_there_are_any() -> None:
    assert not [line for line in lines("status", STATUS) if line.startswith("phones")]
    paired = {**STATUS["phone"], "slots": 2}
    assert "phones    2, keys in /state/pairing.json" in lines("status", {**STATUS, "phone": paired})
    (shown,) = [
        line
        for line in lines("status", {**STATUS, "phone": {**paired, "network": False}})
        if line.startswith("phones")
    ]
    assert "NOT REACHABLE: set network = true" in shown


def test_a_keyring_is_in_the_status_if_there_is_one() -> None:
    assert not [line for line in lines("status", STATUS) if line.startswith("keyring")]
    good = {"backend": "SecretService", "ok": True, "slots": 1}
    assert "keyring   SecretService, 1 slot" in lines("status", {**STATUS, "keyring": good})
    for bad in ({**good, "ok": False}, {"backend": None, "ok": False, "slots": 1}):
        assert "keyring   NOT REACHABLE, 1 slot" in lines("status", {**STATUS, "keyring": bad})


def test_a_removed_slot_says_what_is_left() -> None:
    assert not [line for line in lines("slot remove", {"removed": "k", "left": False}) if "still in" in line]
    assert [
        line
        for line in lines("slot remove", {"removed": "k", "left": True})
        if "still in the keyring" in line
    ]


def test_no_vault_has_no_line_for_one() -> None:
    shown = lines("status", {**STATUS, "state": "uninitialized", "vault": None})
    assert not [line for line in shown if line.startswith(("vault", "holds"))]


def test_selectors_are_numbers_names_and_units() -> None:
    parsed = SELECT.parse(["--uid", "7", "root", "7", "--unit", "b.service", "a.service", "--socket"])
    assert selectors.given(parsed) == {"uids": [0, 7], "units": ["a.service", "b.service"], "socket": True}
    assert selectors.given(SELECT.parse([])) == {}


def test_a_user_who_is_not_here_is_an_error() -> None:
    with pytest.raises(BadRequestError, match=r"^there is no such user here$"):
        selectors.given(SELECT.parse(["--uid", "no\x1bbody"]))


def test_a_directory_of_any_name_is_mounted() -> None:
    bubblewrap, docker = selectors.mount_lines("/run/it's here")
    assert bubblewrap.endswith(
        """--ro-bind '/run/it'"'"'s here' /run/avault --setenv AVAULT_RUNTIME_DIR /run/avault"""
    )
    assert docker.endswith("""-v '/run/it'"'"'s here:/run/avault' -e AVAULT_RUNTIME_DIR=/run/avault""")


def test_an_agent_with_several_of_everything() -> None:
    agent = {
        "name": "cobot",
        "uids": [1, 2],
        "units": [],
        "socket": True,
        "instances": 2,
        "boundary": "sandbox",
        "mount": "/run/x",
        "plugins": [{"name": "a", "secrets": [], "pids": [7, 8]}],
    }
    shown = lines("agents", {"agents": [agent]})
    assert shown[0] == "cobot: uid 1|2 and own socket"
    assert shown[2] == "  instances: 2"
    assert shown[-1] == "  a: nothing (bound to pid 7, 8)"


def test_slots_without_a_cost_have_none() -> None:
    assert (
        lines("slot list", {"slots": [{"id": "phone", "type": "nip46", "log_n": None}]})[1] == "phone  nip46"
    )
