"""The operator's methods, over a real socket."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from avault_daemon.audit.chain import Chain
from avault_daemon.callers.throttle import PER_MINUTE, Throttle
from avault_daemon.memory.arena import Slot
from avault_daemon.serving.operator_connection import MAX_REQUESTS
from avault_daemon.slots import passphrase as passphrases
from avault_daemon.vault import door
from avault_protocol import (
    METHODS,
    OPERATOR,
    SERVE,
    UNINITIALIZED,
    AuditFailedError,
    AvaultError,
    BadRequestError,
    BusyError,
    InternalError,
    LockedError,
    Method,
    NotFoundError,
    NotGrantedError,
    ProofRequiredError,
    ThrottledError,
    TooLargeError,
    WrongPassphraseError,
    limits,
    pack_request,
)
from support.clock import Clock
from support.gates import Gate
from support.house import LOG_N, PASSPHRASE, House, Peer, open_house

OTHER = b"another passphrase altogether"

# Well-formed parameters for every method of the operator's socket, and a value where it takes one.
CALLS: dict[str, tuple[dict[str, Any], bytes | None]] = {
    "status": ({}, None),
    "lock": ({}, None),
    "list": ({}, None),
    "agents": ({}, None),
    "requests": ({}, None),
    "history": ({"name": "TOKEN"}, None),
    "slots": ({}, None),
    "audit": ({"limit": 10}, None),
    "audit_verify": ({}, None),
    "init": ({"log_n": LOG_N}, PASSPHRASE),
    "unlock": ({}, PASSPHRASE),
    "prove": ({}, PASSPHRASE),
    "phone_unlock": ({"timeout": 1}, None),
    "phone_prove": ({"action": "reveal", "timeout": 1}, None),
    "phone_pair": ({"timeout": 1}, None),
    "phone_confirm": ({"timeout": 1}, None),
    "keyring_unlock": ({}, None),
    "keyring_add": ({}, None),
    "credential_add": ({}, None),
    "put": ({"items": [{"name": "NEW", "size": 1, "encoding": "text"}]}, b"x"),
    "reveal": ({"name": "TOKEN"}, None),
    "rm": ({"name": "TOKEN"}, None),
    "restore": ({"name": "TOKEN", "version": 1}, None),
    "agent_set": ({"agent": "cobot", "uids": [7]}, None),
    "agent_rm": ({"agent": "cobot"}, None),
    "grant": ({"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"]}, None),
    "revoke": ({"agent": "cobot"}, None),
    "approve": ({"ids": [1]}, None),
    "deny": ({"ids": [1]}, None),
    "slot_add": ({"type": "passphrase", "log_n": LOG_N}, OTHER),
    "slot_remove": ({"slot": "passphrase"}, None),
    "change_passphrase": ({"log_n": LOG_N}, OTHER),
    "rekey": ({"log_n": LOG_N}, OTHER),
    "export": ({"log_n": LOG_N}, OTHER),
    "restore_vault": ({}, PASSPHRASE),
}
OPERATORS = [method for method in METHODS.values() if method.socket == OPERATOR]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with open_house(tmp_path) as house:
        yield house


async def filled(house: House) -> Peer:
    operator = await house.init()
    await house.put(operator, TOKEN=b"one")
    await operator.call(
        "grant", {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
    )
    return operator


def test_every_method_is_called_here() -> None:
    assert CALLS.keys() == {method.name for method in OPERATORS}


@pytest.mark.parametrize("method", OPERATORS, ids=lambda method: method.name)
@pytest.mark.parametrize("state", ["uninitialized", "locked", "unlocked"])
async def test_what_each_method_does_in_each_state(house: House, state: str, method: Method) -> None:
    """As the table says: served, or the error that it names; without proof never more than that proof is needed."""
    if state != UNINITIALIZED:
        operator = await filled(house)
        if state == "locked":
            await operator.call("lock")
    peer = await house.connect(house.core.places.operator_socket)
    params, value = CALLS[method.name]
    try:
        await peer.call(method.name, params, value)
        outcome = SERVE
    except ProofRequiredError:
        assert method.proof
        outcome = SERVE
    except AvaultError as error:
        outcome = error.code
    expected = method.states[state]
    if method.name == "restore_vault":  # it is let through to look at the file that must come with it
        expected = "bad_request"
    let_through = {"phone_unlock": "locked", "phone_prove": "unlocked", "keyring_unlock": "locked"}
    if let_through.get(method.name) == state:
        expected = "not_found" if method.name == "keyring_unlock" else "bad_request"  # no slot; no network
    assert outcome == expected


@pytest.mark.parametrize("method", [m for m in OPERATORS if m.proof], ids=lambda method: method.name)
async def test_what_needs_proof_does_nothing_without(house: House, method: Method) -> None:
    await filled(house)
    before = house.core.vault.generation
    peer = await house.operator(proven=False)
    params, value = CALLS[method.name]
    with pytest.raises(ProofRequiredError):
        await peer.call(method.name, params, value)
    assert house.core.vault.generation == before


async def test_proof_is_the_connections_own(house: House) -> None:
    await filled(house)
    proven, other = await house.operator(), await house.operator(proven=False)
    await proven.call("reveal", {"name": "TOKEN"})
    with pytest.raises(ProofRequiredError):
        await other.call("reveal", {"name": "TOKEN"})


async def test_init_and_a_real_unlock_prove_and_an_empty_one_does_not(house: House) -> None:
    operator = await filled(house)
    await operator.call("reveal", {"name": "TOKEN"})
    await operator.call("lock")
    peer = await house.operator(proven=False)
    assert (await peer.call("unlock", {}, PASSPHRASE))["already"] is False
    await peer.call("reveal", {"name": "TOKEN"})
    late = await house.operator(proven=False)
    assert (await late.call("unlock", {}, b"whatever it is"))["already"] is True
    with pytest.raises(ProofRequiredError):
        await late.call("reveal", {"name": "TOKEN"})


async def test_wrong_passphrases_are_throttled_for_their_uid(house: House) -> None:
    await filled(house)
    peer = await house.operator(proven=False)
    with pytest.raises(WrongPassphraseError):
        await peer.call("prove", {}, b"wrong passphrase")
    with pytest.raises(ThrottledError):
        await peer.call("prove", {}, PASSPHRASE)


async def test_guesses_in_parallel_do_not_slip_past_the_throttle(house: House) -> None:
    await filled(house)
    peers = [await house.operator(proven=False) for _ in range(8)]
    outcomes: list[str] = []

    async def guess(peer: Peer) -> None:
        try:
            await peer.call("prove", {}, b"wrong passphrase")
        except AvaultError as error:
            outcomes.append(error.code)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(guess, peer)
    assert sorted(outcomes) == ["throttled"] * 7 + ["wrong_passphrase"]


async def test_a_passphrase_that_a_lock_wipes_before_its_turn_was_not_wrong(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await filled(house)
    peers = [await house.operator(proven=False) for _ in range(2)]
    gate = Gate(monkeypatch, door, "open_slot")
    for peer in peers:
        await peer.ask("prove", {}, PASSPHRASE)
        await gate.reached.wait()
    await trio.testing.wait_all_tasks_blocked()
    await operator.call("lock")
    gate.go.set()
    assert [_outcome(await peer.answer())[1].__class__ for peer in peers] == [LockedError] * 2
    house.core.throttle.check(os.getuid())


async def test_guesses_for_which_there_is_no_memory_count(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two slots the first has been tried when there is none for the second."""
    await filled(house)
    clock, tries = Clock(), 0
    house.core.throttle = Throttle(clock)

    def exhausted(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise InternalError("no memory for scrypt")

    monkeypatch.setattr(passphrases, "open_key", exhausted)
    peer = await house.operator(proven=False)
    for _ in range(PER_MINUTE):
        with pytest.raises(InternalError):
            await peer.call("prove", {}, PASSPHRASE)
    with pytest.raises(ThrottledError):
        await peer.call("prove", {}, PASSPHRASE)
    assert tries == PER_MINUTE
    clock.now += 60
    with pytest.raises(InternalError):
        await peer.call("prove", {}, PASSPHRASE)


@pytest.mark.parametrize("passphrase", [b"", b"seven77", b"x" * (limits.MAX_PASSPHRASE + 1), b"\xff" * 20])
async def test_passphrases_that_are_none(house: House, passphrase: bytes) -> None:
    peer = await house.operator(proven=False)
    with pytest.raises(BadRequestError):
        await peer.call("init", {"log_n": LOG_N}, passphrase)
    assert house.core.vault.state == UNINITIALIZED


@pytest.mark.parametrize("passphrase", [b"eight888", b"x" * limits.MAX_PASSPHRASE, "acht äöü".encode()])
async def test_passphrases_at_the_limits(house: House, passphrase: bytes) -> None:
    peer = await house.operator(proven=False)
    await peer.call("init", {"log_n": LOG_N}, passphrase)
    await (await house.operator(proven=False)).call("prove", {}, passphrase)


async def test_put_checks_sizes_and_is_one_transaction(house: House) -> None:
    operator = await filled(house)
    before = house.core.vault.generation
    item = {"name": "A", "size": 2, "encoding": "text"}
    with pytest.raises(BadRequestError, match="do not add up"):
        await operator.call("put", {"items": [item]}, b"abc")
    too_much = [
        {"name": f"S{n}", "size": limits.MAX_VALUE, "encoding": "text"}
        for n in range(1 + limits.MAX_VALUES // limits.MAX_VALUE)
    ]
    with pytest.raises(TooLargeError):
        await operator.call("put", {"items": too_much}, b"")
    with pytest.raises(BadRequestError, match="TOKEN"):
        await operator.call(
            "put", {"items": [item, {"name": "TOKEN", "size": 1, "encoding": "text"}]}, b"abc"
        )
    assert house.core.vault.generation == before
    exactly = too_much[:-1]
    await operator.call("put", {"items": exactly}, b"y" * limits.MAX_VALUES)
    assert house.core.vault.generation == before + 1
    assert house.core.vault.count == 1 + len(exactly)


async def test_history_and_restore(house: House) -> None:
    operator = await filled(house)
    for value in (b"two", b"three", b"four", b"five"):
        await house.put(operator, TOKEN=value)
    versions = (await operator.call("history", {"name": "TOKEN"}))["versions"]
    assert [entry["version"] for entry in versions if entry["current"]] == [5]
    assert sorted(entry["version"] for entry in versions) == [2, 3, 4, 5]
    assert (await operator.call("reveal", {"name": "TOKEN", "version": 3}))[1] == b"three"
    assert await operator.call("restore", {"name": "TOKEN", "version": 3}) == {"version": 6}
    assert (await operator.call("reveal", {"name": "TOKEN"}))[1] == b"three"
    with pytest.raises(NotFoundError):
        await operator.call("reveal", {"name": "TOKEN", "version": 1})


async def test_list_tells_names_readers_and_last_use_but_no_values(house: House) -> None:
    operator = await filled(house)
    agent = await house.agent()
    await agent.call("get_secret", {"name": "TOKEN"})
    (entry,) = (await operator.call("list"))["secrets"]
    assert entry["name"] == "TOKEN"
    assert entry["readers"] == ["cobot/telegram"]
    assert entry["last_use"] is not None
    assert b"one" not in repr(entry).encode()


async def test_a_long_list_comes_in_pages(house: House) -> None:
    operator = await house.init()
    for start in (0, 1000):
        await house.put(operator, **{f"S{n:04}": b"x" for n in range(start, start + 1000)})
    page = await operator.call("list")
    assert (len(page["secrets"]), page["more"]) == (1000, True)
    rest = await operator.call("list", {"after": page["secrets"][-1]["name"]})
    assert (len(rest["secrets"]), rest["more"]) == (1000, False)
    assert [entry["name"] for entry in page["secrets"] + rest["secrets"]] == [f"S{n:04}" for n in range(2000)]
    few = await operator.call("list", {"limit": 2})
    assert ([entry["name"] for entry in few["secrets"]], few["more"]) == (["S0000", "S0001"], True)


async def test_approving_a_stranger_makes_an_agent_that_describes_it(house: House) -> None:
    operator = await filled(house)
    with pytest.raises(AvaultError):
        await house.agent(plugin="helper", agent="stranger")
    (request,) = (await operator.call("requests"))["requests"]
    approved = await operator.call("approve", {"ids": [request["id"]]})
    assert approved["approved"] == [
        {"id": request["id"], "agent": "stranger", "plugin": "helper", "names": ["TOKEN"]}
    ]
    agent = await house.agent(plugin="helper", agent="stranger")
    assert (await agent.call("get_secret", {"name": "TOKEN"}))[1] == b"one"
    assert (await operator.call("requests"))["requests"] == []


async def test_a_stranger_whose_agent_was_made_meanwhile_is_approved_as_that_agent(house: House) -> None:
    operator = await filled(house)
    for name in ("stranger", "other"):
        with pytest.raises(AvaultError):
            await house.agent(plugin="helper", agent=name)
    mine, others = (await operator.call("requests"))["requests"]
    await operator.call("agent_set", {"agent": "stranger", "uids": [os.getuid()], "instances": 2})
    await operator.call("agent_set", {"agent": "other", "uids": [os.getuid() + 1]})
    await operator.call("approve", {"ids": [mine["id"]]})
    described = (await operator.call("agents", {"agent": "stranger"}))["agents"][0]
    assert described["instances"] == 2
    assert described["plugins"][0]["secrets"] == ["TOKEN"]
    with pytest.raises(BadRequestError, match="it is not this caller"):
        await operator.call("approve", {"ids": [others["id"]]})


@pytest.mark.parametrize("change", ["agent_rm", "agent_set"])
async def test_what_somebody_asked_who_is_not_the_agent_any_more_is_not_granted(
    house: House, change: str
) -> None:
    operator = await filled(house)
    plugin = await house.agent("weather")  # wants TOKEN
    (waiting,) = (await operator.call("requests"))["requests"]
    if change == "agent_rm":
        await operator.call("agent_rm", {"agent": "cobot"})
    await operator.call("agent_set", {"agent": "cobot", "uids": [os.getuid() + 1]})
    with pytest.raises(NotFoundError, match="is not agent cobot any more"):
        await operator.call("approve", {"ids": [waiting["id"]]})
    with pytest.raises(NotGrantedError):
        await plugin.call("get_secret", {"name": "TOKEN"})
    assert (await plugin.call("request", {"name": "OTHER"})) == {"granted": False, "id": None}
    assert (await operator.call("requests"))["requests"] == []


@pytest.mark.parametrize("rest", ["grant", "agent_set", "approve"])
async def test_a_revocation_is_not_undone_by_what_is_changed_at_the_same_time(
    house: House, rest: str
) -> None:
    first = await filled(house)
    second = await house.operator()
    await house.agent("weather")
    (waiting,) = (await first.call("requests"))["requests"]
    params: dict[str, dict[str, Any]] = {
        "grant": {"agent": "cobot", "plugin": "weather", "secrets": ["TOKEN"]},
        "agent_set": {"agent": "cobot", "instances": 2},
        "approve": {"ids": [waiting["id"]]},
    }
    await first.ask("revoke", {"agent": "cobot", "plugin": "telegram"})
    await second.ask(rest, params[rest])
    assert (await first.answer())[0].error is None
    assert (await second.answer())[0].error is None
    (agent,) = (await first.call("agents"))["agents"]
    assert "telegram" not in [plugin["name"] for plugin in agent["plugins"]]


async def test_denied_is_not_asked_again(house: House) -> None:
    operator = await filled(house)
    await house.agent(secrets=("LATER",))
    (request,) = (await operator.call("requests"))["requests"]
    await operator.call("deny", {"ids": [request["id"]]})
    await house.agent(secrets=("LATER",))
    assert (await operator.call("requests"))["requests"] == []


async def test_grants_need_secrets_that_exist_and_selectors_the_first_time(house: House) -> None:
    operator = await filled(house)
    grant = {"agent": "new", "plugin": "p", "secrets": ["TOKEN"]}
    with pytest.raises(BadRequestError, match="how it is recognised"):
        await operator.call("grant", grant)
    with pytest.raises(NotFoundError, match="NOWHERE"):
        await operator.call("grant", {**grant, "uids": [1], "secrets": ["NOWHERE"]})
    made = await operator.call("grant", {**grant, "uids": [1]})
    assert made["created_agent"] is True
    with pytest.raises(BadRequestError, match="recognised otherwise"):
        await operator.call("grant", {**grant, "uids": [2]})


async def test_slots(house: House) -> None:
    operator = await filled(house)
    added = await operator.call("slot_add", {"type": "passphrase", "log_n": LOG_N}, OTHER)
    slots = (await operator.call("slots"))["slots"]
    assert [slot["id"] for slot in slots] == ["passphrase", added["slot"]]
    await operator.call("slot_remove", {"slot": "passphrase"})
    operator = await proven_with(house, OTHER)
    with pytest.raises(BadRequestError, match="last passphrase"):
        await operator.call("slot_remove", {"slot": added["slot"]})
    await operator.call("lock")
    with pytest.raises(WrongPassphraseError):
        await operator.call("unlock", {}, PASSPHRASE)
    with pytest.raises(BadRequestError, match="no such type"):
        await (await proven_with(house, OTHER)).call("slot_add", {"type": "dna"}, OTHER)


async def proven_with(house: House, passphrase: bytes) -> Peer:
    """Unlock or prove by *passphrase*, as if the last wrong guess were long ago."""
    house.core.throttle.__init__()  # type: ignore[misc]
    peer = await house.operator(proven=False)
    await peer.call("unlock" if house.core.vault.locked else "prove", {}, passphrase)
    return peer


async def test_change_passphrase_and_rekey(house: House) -> None:
    operator = await filled(house)
    await operator.call("change_passphrase", {"log_n": LOG_N}, OTHER)
    with pytest.raises(WrongPassphraseError):
        await (await house.operator(proven=False)).call("prove", {}, PASSPHRASE)
    key = (await operator.call("status"))["vault"]
    assert (await operator.call("reveal", {"name": "TOKEN"}))[1] == b"one"
    changed = await operator.call("rekey", {"log_n": LOG_N}, PASSPHRASE)
    assert changed["vault"] != key
    assert (await operator.call("reveal", {"name": "TOKEN"}))[1] == b"one"
    verdict = await operator.call("audit_verify")
    assert verdict["ok"], verdict
    await operator.call("lock")
    await proven_with(house, PASSPHRASE)


@pytest.mark.parametrize("change", ["change_passphrase", "rekey", "slot_remove", "restore_vault"])
async def test_proof_ends_when_what_was_proven_opens_the_vault_no_more(
    house: House, tmp_path: Path, change: str
) -> None:
    operator = await filled(house)
    copy = tmp_path / "copy"
    with copy.open("wb") as file:
        await operator.call("export", {"log_n": LOG_N}, OTHER, fds=(file.fileno(),))
    slot = (await operator.call("slot_add", {"type": "passphrase", "log_n": LOG_N}, OTHER))["slot"]
    kept, old = await proven_with(house, PASSPHRASE), await proven_with(house, OTHER)
    match change:
        case "change_passphrase":
            await operator.call(change, {"slot": slot, "log_n": LOG_N}, b"a third passphrase")
        case "slot_remove":
            await operator.call(change, {"slot": slot})
        case "restore_vault":
            with copy.open("rb") as file:
                await operator.call(change, {}, OTHER, fds=(file.fileno(),))
        case _:
            await operator.call(change, {"log_n": LOG_N}, PASSPHRASE)
    with pytest.raises(ProofRequiredError):
        await old.call("reveal", {"name": "TOKEN"})
    if change == "slot_remove":
        assert (await kept.call("reveal", {"name": "TOKEN"}))[1] == b"one"
    elif change != "change_passphrase":
        with pytest.raises(ProofRequiredError):
            await kept.call("reveal", {"name": "TOKEN"})
        assert (await operator.call("reveal", {"name": "TOKEN"}))[1] == b"one"


async def test_a_proof_of_what_was_replaced_meanwhile_is_none(house: House) -> None:
    operator = await filled(house)
    late, real = await house.operator(proven=False), house.core.vault.prove

    async def prove(passphrase: Slot, slot: str | None = None) -> str:
        opened = await real(passphrase, slot)
        await operator.call("change_passphrase", {"log_n": LOG_N}, OTHER)
        return opened

    house.core.vault.prove = prove  # type: ignore[method-assign]
    await late.call("prove", {}, PASSPHRASE)
    with pytest.raises(ProofRequiredError):
        await late.call("reveal", {"name": "TOKEN"})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("put", {"items": [{"name": "NEW", "size": len(OTHER), "encoding": "text"}]}),
        ("slot_add", {"type": "passphrase", "log_n": LOG_N}),
        ("change_passphrase", {"log_n": LOG_N}),
        ("rekey", {"log_n": LOG_N}),
    ],
)
async def test_a_lock_while_the_record_is_synced_is_noticed(
    house: House, monkeypatch: pytest.MonkeyPatch, method: str, params: dict[str, Any]
) -> None:
    # What arrived is zeroes by then, and a passphrase of zeroes, or a value, would be taken for the operator's.
    operator, second = await filled(house), await house.operator()
    synced, syncing = trio.Event(), trio.Event()

    async def settle() -> None:
        syncing.set()
        await synced.wait()

    monkeypatch.setattr(house.core.record, "settle", settle)
    await operator.ask(method, params, OTHER)
    await syncing.wait()
    monkeypatch.undo()
    await second.call("lock")
    await second.call("unlock", {}, PASSPHRASE)
    before = (await second.call("status"))["generation"]
    synced.set()
    assert isinstance((await operator.answer())[0].error, LockedError)
    assert (await second.call("status"))["generation"] == before


async def test_export_and_restore(house: House, tmp_path: Path) -> None:
    operator = await filled(house)
    with (tmp_path / "copy").open("wb") as copy:
        await operator.call("export", {"log_n": LOG_N}, OTHER, fds=(copy.fileno(),))
    await operator.call("rm", {"name": "TOKEN"})
    with (tmp_path / "copy").open("rb") as copy, pytest.raises(WrongPassphraseError):
        await operator.call("restore_vault", {}, PASSPHRASE, fds=(copy.fileno(),))
    peer = await proven_with(house, PASSPHRASE)
    with (tmp_path / "copy").open("rb") as copy:
        await peer.call("restore_vault", {}, OTHER, fds=(copy.fileno(),))
    assert (await peer.call("reveal", {"name": "TOKEN"}))[1] == b"one"
    assert (await peer.call("audit_verify"))["ok"] is True


async def test_files_must_come_with_the_requests_that_need_them(house: House) -> None:
    operator = await filled(house)
    with pytest.raises(BadRequestError, match="one open file"):
        await operator.call("export", {"log_n": LOG_N}, OTHER)
    before = len(os.listdir("/proc/self/fd"))
    async with await trio.open_file("/dev/null") as null:
        with pytest.raises(BadRequestError, match="not 2"):
            await operator.call("export", {"log_n": LOG_N}, OTHER, fds=(null.fileno(), null.fileno()))
        await operator.call("status", fds=(null.fileno(),))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_record_is_read_in_pages_and_verifies(house: House) -> None:
    operator = await filled(house)
    agent = await house.agent()
    for _ in range(5):
        await agent.call("get_secret", {"name": "TOKEN"})
    page = await operator.call("audit", {"secret": "TOKEN", "limit": 4})
    assert len(page["entries"]) == 4
    assert page["more"] is True
    rest = await operator.call("audit", {"secret": "TOKEN", "after": page["entries"][-1]["n"]})
    actions = [entry["action"] for entry in page["entries"] + rest["entries"]]
    assert actions.count("get_secret") == 5
    assert (await operator.call("audit_verify"))["ok"] is True


@pytest.mark.parametrize("method", ["reveal", "rm", "restore", "grant", "revoke"])
async def test_a_name_of_nothing_is_not_on_record(house: House, method: str) -> None:
    """It may be a value; that there was such a call, is."""
    operator = await filled(house)
    params = dict(CALLS[method][0])
    params |= {"name": "ghp_hunter2"} if "name" in params else {"secrets": ["ghp_hunter2"]}
    with pytest.raises(NotFoundError):
        await operator.call(method, params)
    entries = (await operator.call("audit"))["entries"]
    assert method in [entry["action"] for entry in entries]
    assert "ghp_hunter2" not in repr(entries)


async def test_a_grant_of_what_is_gone_is_taken_back_on_record(house: House) -> None:
    operator = await filled(house)
    await operator.call("rm", {"name": "TOKEN"})
    await operator.call("revoke", {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"]})
    entries = (await operator.call("audit", {"secret": "TOKEN"}))["entries"]
    assert entries[-1]["action"] == "revoke"


async def test_the_record_is_read_by_one_thread_at_a_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, going, most = await filled(house), set[int](), list[int]()
    real = house.core.record.read

    def read(**which: Any) -> list[dict[str, Any]]:
        going.add(threading.get_ident())
        most.append(len(going))
        found = real(**which)
        going.remove(threading.get_ident())
        return found

    monkeypatch.setattr(house.core.record, "read", read)
    peers = [await house.operator(proven=False) for _ in range(10)]
    for peer in peers:
        await peer.ask("audit")
    for peer in peers:
        assert (await peer.answer())[0].result["entries"]
    assert most == [1] * 10
    # The threads that write, sync and derive keys are not used up.
    async with house.core.reading:
        await operator.ask("audit_verify")
        await house.put(await house.operator(), TOKEN=b"two")
    assert (await operator.answer())[0].result["ok"] is True


async def test_status_and_lock_do_not_need_the_record(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = await filled(house)

    def fail(self: Chain, noted: object) -> None:
        raise AuditFailedError("the disk is full")

    monkeypatch.setattr(Chain, "write", fail)
    assert (await operator.call("status"))["state"] == "unlocked"
    await operator.call("lock")
    assert house.core.vault.locked


async def test_lock_overtakes_a_derivation(house: House) -> None:
    operator = await filled(house)
    await operator.call("lock")
    peer = await house.operator(proven=False)
    unlocking = await peer.ask("unlock", {}, PASSPHRASE)
    locking = await peer.ask("lock")
    answers = dict([_outcome(await peer.answer()), _outcome(await peer.answer())])
    assert answers[locking] is None
    assert house.core.vault.locked or isinstance(answers[unlocking], LockedError) is False


def _outcome(answer: Any) -> tuple[int, AvaultError | None]:
    return answer[0].id, answer[0].error


async def test_two_who_unlock_at_once_are_both_served(house: House) -> None:
    await (await filled(house)).call("lock")
    peers = [await house.operator(proven=False) for _ in range(2)]
    for peer in peers:
        await peer.ask("unlock", {}, PASSPHRASE)
    answers = [(await peer.answer())[0] for peer in peers]
    assert sorted(bool(answer.result["already"]) for answer in answers) == [False, True]


async def test_too_many_requests_at_once(house: House) -> None:
    await filled(house)
    peer = await house.operator(proven=False)
    one = pack_request(1, "prove", {}, len(PASSPHRASE)) + PASSPHRASE
    await peer.send(one * (MAX_REQUESTS + 1))
    assert isinstance(await peer.closed(), BusyError)


async def test_the_arena_holds_nothing_but_the_keys_and_open_values_when_all_is_quiet(
    house: House, tmp_path: Path
) -> None:
    operator = await house.init()
    await trio.testing.wait_all_tasks_blocked()
    keys = house.core.arena.in_use
    await house.put(operator, TOKEN=b"x" * limits.MAX_VALUE)
    await operator.call("reveal", {"name": "TOKEN"})
    with (tmp_path / "copy").open("wb") as copy:
        await operator.call("export", {"log_n": LOG_N}, OTHER, fds=(copy.fileno(),))
    await trio.testing.wait_all_tasks_blocked()
    assert house.core.arena.in_use == keys + limits.MAX_VALUE
    await house.put(operator, OTHER=b"x")  # a commit closes what is open
    await trio.testing.wait_all_tasks_blocked()
    assert house.core.arena.in_use == keys
    await operator.call("lock")
    await trio.testing.wait_all_tasks_blocked()
    assert house.core.arena.in_use == 0
    assert not house.core.arena.mapped
