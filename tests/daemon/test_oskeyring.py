"""The daemon's end and the helper's: a real helper process; the keyring behind it a file, or a real Secret Service."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from avault_daemon.keyring import helper as keyring_helper, oskeyring
from avault_daemon.keyring.oskeyring import MAX_VALUE, Keyring
from avault_daemon.memory.arena import Arena, Slot
from avault_protocol import BadRequestError, CorruptError, DeniedError, LockedError, StorageFailedError
from support.keyrings import PLAIN, FileKeyring, file_keyring, secret_service

ARENA = Arena(kind="mlock")
LOW, ABSENT = PLAIN.replace("Plain", "Low"), PLAIN.replace("Plain", "Absent")


@pytest.fixture
def place(tmp_path: Path) -> Generator[FileKeyring]:
    with file_keyring(tmp_path / "keyring") as place:
        yield place


def slot_of(value: bytes) -> Slot:
    slot = ARENA.take(len(value))
    slot.view[:] = value
    return slot


def put(keyring: Keyring, item: str, value: bytes) -> None:
    with slot_of(value) as slot:
        keyring.put(item, slot)


def get(keyring: Keyring, item: str) -> bytes | None:
    found = keyring.get(ARENA, item)
    if found is None:
        return None
    with found:
        return bytes(found.view)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(
    st.binary(min_size=1, max_size=200).filter(any),
    st.text(min_size=1, max_size=40).filter(lambda t: "\0" not in t),
)
def test_what_is_put_is_got(place: FileKeyring, value: bytes, item: str) -> None:
    put(place.keyring, item, value)
    assert get(place.keyring, item) == value
    assert place.keyring.delete(item)


def test_an_item_that_is_not_there(place: FileKeyring) -> None:
    before = ARENA.in_use
    assert get(place.keyring, "a") is None
    assert not place.keyring.delete("a")
    assert ARENA.in_use == before


def test_the_largest_value(place: FileKeyring) -> None:
    value = secrets.token_bytes(MAX_VALUE)
    put(place.keyring, "a", value)
    assert get(place.keyring, "a") == value
    with pytest.raises(ValueError, match="bytes for a keyring"):
        put(place.keyring, "a", value + b"1")


def test_another_value_takes_its_place(place: FileKeyring) -> None:
    put(place.keyring, "a", b"one")
    put(place.keyring, "a", b"two")
    assert place.items == {"avault/a": b"two".hex()}


def test_what_was_wiped_meanwhile_is_not_stored(place: FileKeyring) -> None:
    put(place.keyring, "a", b"one")
    with ARENA.take(32) as wiped, pytest.raises(LockedError):
        place.keyring.put("a", wiped)
    assert get(place.keyring, "a") == b"one"


def test_an_item_that_somebody_emptied(place: FileKeyring) -> None:
    place.path.write_text('{"avault/a": ""}')
    with pytest.raises(CorruptError):
        get(place.keyring, "a")


def test_a_locked_keyring_says_so_and_is_asked_again(place: FileKeyring) -> None:
    put(place.keyring, "a", b"one")
    place.fault("locked")
    for ask in (
        lambda: get(place.keyring, "a"),
        lambda: put(place.keyring, "a", b"1"),
        lambda: place.keyring.delete("a"),
    ):
        with pytest.raises(DeniedError, match="locked"):
            ask()
    place.fault("")
    assert get(place.keyring, "a") == b"one"


@pytest.mark.parametrize(("fault", "why"), [("error", "RuntimeError"), ("crash", "it broke down")])
def test_a_failure_is_told_without_what_it_says_and_ends_nothing(
    place: FileKeyring, fault: str, why: str
) -> None:
    put(place.keyring, "a", b"secret")
    before = ARENA.in_use
    place.fault(fault)
    with pytest.raises(StorageFailedError, match=f"^the keyring failed: {why}$"):
        get(place.keyring, "a")
    place.fault("")
    assert get(place.keyring, "a") == b"secret"
    assert ARENA.in_use == before


def test_a_keyring_that_asks_nobody_for_ever_is_given_up(tmp_path: Path) -> None:
    with file_keyring(tmp_path / "keyring", patience=1) as place:
        place.fault("silent")
        with pytest.raises(StorageFailedError, match="no answer in time"):
            get(place.keyring, "a")
        place.fault("")
        assert get(place.keyring, "a") is None


def test_a_helper_that_was_killed_is_missed_until_a_restart(place: FileKeyring) -> None:
    assert (place.keyring.ok, place.keyring.problem) == (True, None)
    place.helper.kill()
    place.helper.wait()
    for _ in range(2):
        with pytest.raises(StorageFailedError, match="has ended") as caught:
            get(place.keyring, "a")
        assert caught.value.hint == "restart avaultd"
    now = (place.keyring.ok, place.keyring.problem)
    assert now == (False, "keyring = true, but the keyring's helper process has ended")


def test_a_helper_killed_while_it_is_asked(place: FileKeyring) -> None:
    place.fault("silent")
    killer = threading.Timer(0.2, place.helper.kill)
    killer.start()
    with pytest.raises(StorageFailedError, match="has ended"):
        get(place.keyring, "a")
    killer.join()


def test_closing_ends_who_waits_and_the_helper(place: FileKeyring) -> None:
    place.fault("silent")
    closer = threading.Timer(0.2, place.keyring.close)
    closer.start()
    with pytest.raises(StorageFailedError, match="has ended"):
        get(place.keyring, "a")
    closer.join()


def test_no_answer_that_is_late_is_taken_for_the_next(
    place: FileKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place.keyring, "a", b"one")
    place.fault("silent")
    assert place.keyring._connection is not None  # pyright: ignore[reportPrivateUsage]
    place.keyring._connection.settimeout(0.1)  # pyright: ignore[reportPrivateUsage]
    for _ in range(2):
        with pytest.raises(StorageFailedError, match="has ended"):
            get(place.keyring, "a")


def test_one_at_a_time(place: FileKeyring) -> None:
    for number in range(4):
        put(place.keyring, f"{number}", bytes([number + 1]))
    found: dict[int, bytes | None] = {}

    def ask(number: int) -> None:
        found[number] = get(place.keyring, f"{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: bytes([number + 1]) for number in range(4)}


# --- which keyring ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backends", "found"),
    [
        ((LOW, PLAIN, ABSENT), "plain_keyring"),
        ((LOW,), None),
        ((ABSENT,), None),
        (("no.such.module:Keyring",), None),
        (("keyring.backends.fail:Keyring",), None),
        (("keyring.backends.null:Keyring",), None),
    ],
)
def test_only_a_real_one_is_taken(tmp_path: Path, backends: tuple[str, ...], found: str | None) -> None:
    with file_keyring(tmp_path / "keyring", *backends) as place:
        assert place.keyring.backend == found
        assert place.keyring.ok == (found is not None)
        if found is None:
            assert place.keyring.problem == "keyring = true, but no keyring answers"
            with pytest.raises(BadRequestError, match="no keyring answers"):
                get(place.keyring, "a")


def test_none_that_keeps_plain_text_is_among_those_asked() -> None:
    assert {name.split(":")[0].rpartition(".")[0] for name in keyring_helper.BACKENDS} == {"keyring.backends"}
    assert {name.split(":")[0].rpartition(".")[2] for name in keyring_helper.BACKENDS} == {
        "SecretService",
        "kwallet",
        "libsecret",
    }


def test_none_wanted() -> None:
    keyring = Keyring()
    assert (keyring.ok, keyring.problem) == (False, None)
    with pytest.raises(BadRequestError) as caught:
        get(keyring, "a")
    assert "keyring = true" in (caught.value.hint or "")
    keyring.close()


def test_a_helper_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_helper, "MAX_START", 0.1)
    monkeypatch.setattr(oskeyring, "_SLACK", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert Keyring(ours).backend is None


def test_a_real_secret_service(tmp_path: Path) -> None:
    with secret_service(tmp_path) as service:
        value = secrets.token_bytes(3000)
        pid = os.fork()
        if pid == 0:  # a daemon's beginning: the helper inherits the environment
            status = 1
            try:
                os.environ.update(service.env)
                keyring = Keyring.start()
                assert keyring.backend == "SecretService"
                put(keyring, "home: a", value)
                assert get(keyring, "home: a") == value
                assert get(keyring, "home: b") is None
                put(keyring, "home: gone", b"1")
                assert keyring.delete("home: gone")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert service.items() == {"home: a": value}
