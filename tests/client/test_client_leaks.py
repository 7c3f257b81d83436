"""Nothing that the client library raises, prints, logs or lets others print shows a value; `reveal` alone does.

What is looked for, and how, is in `support.needles`. Variables of frames count too, where they are the library's own:
tools that report errors show them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import pprint
import reprlib
import subprocess
import sys
import traceback
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Any

import pytest
import trio

from avault_client import AsyncVault, AvaultError, Secret, Vault
from avault_client._secret import BASE64, TEXT
from avault_client.testing import FakeVault
from avault_protocol import limits, pack_error, pack_request, pack_response
from support.needles import Ear, Needles, token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from avault_protocol import Request
    from support.peer import Line, Peer


@pytest.fixture
def needles() -> Needles:
    return Needles()


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear, root = Ear(), logging.getLogger()
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    yield ear
    root.removeHandler(ear)
    root.setLevel(logging.WARNING)


def secret(needles: Needles, encoding: str = TEXT) -> Secret:
    return Secret("TOKEN", 3, encoding, bytearray(needles.plant("value").encode()))


# --- a secret in hand ------------------------------------------------------------------------------------------------


@dataclass
class Holder:
    """What a plugin may keep a secret in."""

    token: Secret
    more: dict[str, list[Secret]]


def looks(held: Secret) -> Iterator[object]:
    """Yield what a program may make of a secret, knowingly or not, in order to show it."""
    yield from (
        repr(held),
        str(held),
        ascii(held),
        f"{held}",
        f"{held!r:>40}",
        f"{held!s:.8}",
        format(held, "^60"),
    )
    yield from ("%s %r %a" % (held, held, held), "%(it)s" % {"it": held}, "{0} {0!r}".format(held))  # noqa: UP031, UP032
    yield from (Template("$it").substitute(it=held), "".join(map(str, [held])), print_to_text(held))
    yield from (json.dumps([held], default=str), json.dumps({"it": held}, default=repr))
    holder = Holder(held, {"all": [held]})
    yield from (
        repr(holder),
        vars(holder),
        pprint.pformat(holder),
        reprlib.repr([held]),
        pprint.saferepr(held),
    )
    yield from (dir(held), hash(held), held.name, held.version, held.encoding)


def print_to_text(held: Secret) -> str:
    from io import StringIO

    out = StringIO()
    print(held, [held], file=out)
    return out.getvalue()


REFUSED: list[Callable[[Any], object]] = [
    vars,
    bytes,
    iter,
    len,
    pickle.dumps,
    copy.copy,
    copy.deepcopy,
    json.dumps,
    memoryview,
    "".join,
    int,
    os.fspath,
]


@pytest.mark.parametrize("encoding", [TEXT, BASE64])
def test_nothing_that_shows_a_secret_shows_its_value(needles: Needles, encoding: str) -> None:
    with secret(needles, encoding) as held:
        for shown in looks(held):
            needles.check("a look", str(shown))
    for shown in looks(held):
        needles.check("a look after close", str(shown))


@pytest.mark.parametrize("how", REFUSED)
def test_what_would_take_a_secret_apart_is_refused_without_its_value(
    needles: Needles, how: Callable[[Any], object]
) -> None:
    with secret(needles) as held, pytest.raises(TypeError) as caught:
        how(held)
    needles.check_error(caught.value)


@pytest.mark.parametrize("close", [False, True])
def test_what_reveal_raises_has_no_value(needles: Needles, close: bool) -> None:
    """Bytes taken for text, text that is none, base64 that is none, a closed one: with all variables of its frames."""
    broken = bytearray(needles.plant("value").encode() + b"\xff!")
    for encoding in (TEXT, BASE64):
        for reveal in (Secret.reveal, Secret.reveal_bytes):
            held = Secret("TOKEN", 1, encoding, bytearray(broken))
            if close:
                held.close()
            if (encoding, reveal, close) == (TEXT, Secret.reveal_bytes, False):
                continue  # that is what it is for
            with pytest.raises((TypeError, AvaultError, ValueError)) as caught:
                reveal(held)
            needles.check_error(caught.value)


def test_a_log_has_no_value(needles: Needles, ear: Ear) -> None:
    log = logging.getLogger("plugin")
    with secret(needles) as held:
        log.debug("using %s", held)
        log.info("using %(it)r", {"it": held})
        log.warning("using", extra={"it": held, "all": [held]})
        log.error(held)
        try:
            raise RuntimeError(held)
        except RuntimeError:
            log.exception("cannot use %s", held, stack_info=True)
    assert len(ear.heard) > 5
    needles.check("the log", "\n".join(ear.heard))


def test_a_traceback_with_variables_has_no_value(needles: Needles) -> None:
    """Also of the frames that hold a secret, not of the library's alone."""
    held = secret(needles)

    def use(token: Secret) -> None:
        tokens = {"it": token, "in": Holder(token, {"all": [token]})}
        raise RuntimeError(f"cannot use {token}", tokens)

    with pytest.raises(RuntimeError) as caught:
        use(held)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(frame for frame in shown.format() if "needles" not in frame)
    assert text.count("Secret('TOKEN')") > 3
    needles.check("a traceback", text)


# --- what the vaults raise, and keep ---------------------------------------------------------------------------------


def hostile(raw: bytes, encoding: str = TEXT) -> dict[str, Callable[[int], bytes]]:
    """Return answers to `get_secret` that are none, with *raw* as value or elsewhere."""
    known: dict[str, object] = {"name": "TOKEN", "version": 1, "encoding": encoding}

    def good(id: int, **more: object) -> bytes:
        return pack_response(id, {**known, **more}, len(raw)) + raw

    return {
        "another id": lambda id: good(id + 1),
        "another name": lambda id: good(id, name="OTHER"),
        "no version": lambda id: good(id, version="1"),
        "no encoding": lambda id: good(id, encoding="rot13"),
        "half of it": lambda id: good(id)[:-5],
        "too much": lambda id: pack_response(id, known, limits.MAX_VALUE + 1) + raw,
        "twice": lambda id: good(id) + good(id),
        "noise": lambda id: b"\xc1" + raw,
        "a request": lambda id: pack_request(id, "put", {}, len(raw)) + raw,
        "noise behind it": lambda id: good(id) + b"\xc1" + raw,
    }


@pytest.fixture(params=list(hostile(b"")))
def misled(request: pytest.FixtureRequest, peer: Peer, needles: Needles) -> Peer:
    """Return a daemon that answers wrongly, with a value in its answer."""
    wrong = hostile(needles.plant("value").encode())[request.param]

    def answer(line: Line, asked: Request) -> None:
        line.send(wrong(asked.id))
        line.hang_up()

    peer.handlers["get_secret"] = answer
    return peer


@pytest.fixture
def serving(peer: Peer, needles: Needles) -> Peer:
    peer.put("TOKEN", needles.plant("value").encode())
    peer.put("BYTES", needles.plant("bytes", token().encode() + b"=").encode(), BASE64)
    return peer


def errors_of(vault: Vault | FakeVault, names: tuple[str, ...]) -> Iterator[BaseException]:
    """Ask for each of *names*, and yield what is raised; nothing else is kept."""
    for name in names:
        try:
            with vault.get_secret(name) as held:
                held.reveal()
                held.reveal_bytes()
        except (AvaultError, ValueError, TypeError) as error:
            yield error


NAMES = ("TOKEN", "BYTES", "OTHER", "no name at all")


def test_a_wrong_answer_leaves_no_value_in_the_error_nor_in_the_vault(misled: Peer, needles: Needles) -> None:
    with Vault(plugin="p", secrets=["TOKEN"], socket=misled.path) as vault:
        for error in errors_of(vault, ("TOKEN", "TOKEN")):
            needles.check_error(error)
            needles.check("a pickled error", pickle.dumps(error))
        assert needles.check_objects(vault) > 10


def asyncio_run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("library", [trio.run, asyncio_run])
def test_a_wrong_answer_leaves_no_value_in_the_async_one(
    misled: Peer, needles: Needles, library: Callable[[Any], None], ear: Ear
) -> None:
    async def main() -> None:
        async with AsyncVault(plugin="p", secrets=["TOKEN"], socket=misled.path) as vault:
            for _ in range(2):
                try:
                    with await vault.get_secret("TOKEN") as held:
                        held.reveal()
                except AvaultError as error:
                    needles.check_error(error)
            assert needles.check_objects(vault) > 10

    library(main)
    needles.check("the log", "\n".join(ear.heard))


def test_what_the_vault_raises_and_keeps(serving: Peer, needles: Needles) -> None:
    """Served, refused, locked, away, closed."""
    vault = Vault(plugin="p", secrets=["TOKEN", "BYTES", "OTHER"], socket=serving.path)
    found: list[BaseException] = []
    found += errors_of(vault, NAMES)
    serving.lock()
    found += errors_of(vault, NAMES)
    serving.stop()
    found += errors_of(vault, NAMES)
    vault.close()
    found += errors_of(vault, NAMES)
    assert len(found) > 10
    for error in found:
        needles.check_error(error)
    needles.check_objects(vault)
    for shown in (vault, vault.inject(), list(vault.inject())):
        needles.check("a vault", f"{shown!r} {shown}")
    with pytest.raises(TypeError) as caught:
        pickle.dumps(vault)
    needles.check_error(caught.value)


def test_what_an_error_of_the_daemon_says_is_all_that_it_says(peer: Peer, needles: Needles) -> None:
    """An error that comes while a value is in the buffer."""
    peer.put("TOKEN", needles.plant("value").encode())
    peer.handlers["grants"] = lambda line, asked: line.send(pack_error(asked.id, AvaultError("no")))
    with Vault(plugin="p", secrets=["TOKEN"], socket=peer.path) as vault, vault.get_secret("TOKEN"):
        with pytest.raises(AvaultError) as caught:
            vault.grants()
        needles.check_error(caught.value)
        needles.check_objects(vault)


def test_injected_ones(serving: Peer, needles: Needles) -> None:
    with Vault(plugin="p", secrets=["TOKEN", "BYTES", "GONE"], socket=serving.path) as vault:
        secrets = vault.inject()
        needles.check(
            "injected", f"{secrets!r} {secrets} {secrets.keys()!r} {secrets.items()!r} {secrets.values()!r}"
        )
        assert needles.found(secrets["TOKEN"])
        stray = needles.plant("a value for a name")
        for name in ("BYTES", "GONE", "UNDECLARED"):
            with pytest.raises((TypeError, AvaultError)) as caught:
                secrets[name]
            needles.check_error(caught.value)
        with pytest.raises(KeyError) as undeclared:
            secrets[stray]
        needles.check("its text", f"{undeclared.value} {undeclared.value!r}")


def test_the_fake_one(needles: Needles) -> None:
    """It holds the values of its test in the open, but shows none."""
    text = needles.plant("value")
    vault = FakeVault({"TOKEN": text, "BYTES": text.encode()}, secrets=["TOKEN", "BYTES", "OTHER"])
    found = [*errors_of(vault, NAMES)]
    vault.rotate("TOKEN", text[::-1])
    for change in (vault.lock, vault.stop, vault.close):
        change()
        found += errors_of(vault, NAMES)
    assert len(found) > 10
    for error in found:
        needles.check_error(error)
    shown = f"{vault!r} {vault} {vault.asked} {vault.inject()!r}"
    needles.check("a fake vault", shown)
    with pytest.raises(TypeError) as caught:
        copy.deepcopy(vault)
    needles.check_error(caught.value)


# --- programs that die with a secret in hand -------------------------------------------------------------------------

BEGIN = """
import atexit, faulthandler, gc, logging, sys, threading, traceback, warnings
from avault_client import Vault
logging.basicConfig(level=logging.DEBUG)
faulthandler.enable()
vault = Vault(plugin="p", secrets=["TOKEN"])
token = vault.get_secret("TOKEN")
tokens = {"all": [token]}
def fail(held):
    raise RuntimeError(f"cannot use {held!r}", held)
"""
DEATHS: dict[str, str] = {
    "by an exception": "fail(token)",
    "by a chain of them": """
try:
    fail(token)
except RuntimeError as error:
    raise LookupError(token, vault, tokens) from error
""",
    "with variables shown": """
def hook(kind, error, trace):
    shown = traceback.TracebackException(kind, error, trace, capture_locals=True)
    print("".join(shown.format()), file=sys.stderr)
sys.excepthook = hook
fail(token)
""",
    "in a thread": """
thread = threading.Thread(target=fail, args=(token,), name=f"uses {token}")
thread.start(); thread.join()
sys.exit(token)
""",
    "in trio": """
import trio
from avault_client import AsyncVault
async def main():
    async with AsyncVault(plugin="p", secrets=["TOKEN"]) as vault, trio.open_nursery() as nursery:
        held = await vault.get_secret("TOKEN")
        nursery.start_soon(asyncfail, held, name=f"uses {held}")
        nursery.start_soon(asyncfail, held)
async def asyncfail(held):
    fail(held)
trio.run(main)
""",
    "in asyncio": """
import asyncio
from avault_client import AsyncVault
async def main():
    asyncio.get_running_loop().slow_callback_duration = 0
    async with AsyncVault(plugin="p", secrets=["TOKEN"]) as vault:
        held = await vault.get_secret("TOKEN")
        task = asyncio.create_task(asyncfail(held), name=f"uses {held}")
        asyncio.get_running_loop().call_soon(fail, held)
        await asyncio.sleep(0.05)
        del task
        gc.collect()
        asyncio.get_running_loop().call_exception_handler({"message": "said", "it": held, "vault": vault})
        fail(held)
async def asyncfail(held):
    fail(held)
asyncio.run(main(), debug=True)
""",
    "as the interpreter ends": """
class Late:
    def __del__(self, held=token):
        fail(held)
late = Late()
atexit.register(fail, token)
warnings.warn(f"still have {token}")
sys.exit(token)
""",
    "by a debugger's dump": """
faulthandler.dump_traceback(all_threads=True)
print(vars(), locals(), gc.get_referrers(token), file=sys.stderr)
sys.exit(repr(tokens))
""",
}


def die(death: str, peer: Peer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with everything on that makes Python talk."""
    env = {"AVAULT_SOCKET": peer.path, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONASYNCIODEBUG": "1"}
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", BEGIN + death],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize("how", DEATHS)
def test_a_program_that_dies_with_a_secret_in_hand(
    how: str, peer: Peer, needles: Needles, tmp_path: Path
) -> None:
    peer.put("TOKEN", needles.plant("value").encode())
    (tmp_path / "cwd").mkdir()
    done = die(DEATHS[how], peer, tmp_path / "cwd")
    assert done.returncode == 1, done.stderr
    assert "Secret('TOKEN')" in done.stderr
    needles.check("what it said", done.stdout + done.stderr)
    needles.check_files(tmp_path / "cwd")


def test_a_program_that_tells_is_seen(peer: Peer, needles: Needles, tmp_path: Path) -> None:
    peer.put("TOKEN", needles.plant("value").encode())
    done = die("raise RuntimeError(token.reveal())", peer, tmp_path)
    assert done.returncode == 1
    with pytest.raises(AssertionError, match="what it said holds"):
        needles.check("what it said", done.stderr)


def test_a_value_left_in_a_vault_is_seen(peer: Peer, needles: Needles) -> None:
    peer.put("TOKEN", b"something else")
    with Vault(plugin="p", secrets=["TOKEN"], socket=peer.path) as vault:
        vault.get_secret("TOKEN").close()
        needles.check_objects(vault)
        inner: Any = vault
        buffer = inner._by_process[os.getpid()]._shared._conversation.buffer
        buffer[100:140] = needles.plant("value", token()).encode()
        with pytest.raises(AssertionError, match="an object"):
            needles.check_objects(vault)
