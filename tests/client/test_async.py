"""The async client, on trio and on asyncio: the same answers, and cancellation that never mixes them up."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
import trio

import avault_client
from avault_client import (
    AsyncVault,
    BadRequestError,
    DaemonUnavailableError,
    LockedError,
    NotGrantedError,
    UnknownAgentError,
)
from avault_protocol import limits, pack_response
from support.background import WITHIN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from avault_protocol import Request
    from support.peer import Line, Peer

    Test = Callable[[], Awaitable[None]]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Run an async function on each library; not by pytest-trio, since anyio finds out for itself."""

    def runner(test: Test) -> None:
        async def in_time() -> None:
            with anyio.fail_after(WITHIN):
                await test()

        if request.param == "trio":
            trio.run(in_time)
        else:
            asyncio.run(in_time())

    return runner


async def value(vault: AsyncVault, name: str = "A", wait: float | None = None) -> str:
    with await vault.get_secret(name, wait=wait) as secret:
        return secret.reveal()


async def until(peer: Peer, condition: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(peer.wait_for, condition)


def plugin(peer: Peer, *names: str, timeout: float = WITHIN) -> AsyncVault:
    return AsyncVault(plugin="p", secrets=names or ("A", "B"), socket=peer.path, timeout=timeout)


def test_it_is_imported_when_it_is_asked_for() -> None:
    assert avault_client.AsyncVault is AsyncVault
    with pytest.raises(AttributeError, match="NoSuchThing"):
        avault_client.NoSuchThing  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


def test_without_anyio_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['anyio'] = None; from avault_client import AsyncVault"
    done = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE, text=True)
    assert "AsyncVault needs anyio: pip install 'avault-client[async]'" in done.stderr


def test_what_a_plugin_does(peer: Peer, run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with plugin(peer) as vault:
            assert vault.plugin == "p"
            assert peer.asked == []
            assert await value(vault) == "the value of A"
            peer.put("A", b"v" * limits.MAX_VALUE)
            assert await value(vault) == "v" * limits.MAX_VALUE
            assert await vault.request("C", "why") is False
            assert vault.secrets == ("A", "B", "C")
            assert (await vault.grants()).waiting == {"C"}
            with pytest.raises(NotGrantedError):
                await vault.get_secret("C")
            assert repr(vault) == "AsyncVault(plugin='p', secrets=['A', 'B', 'C'])"
            with pytest.raises(TypeError, match="neither pickled"):
                pickle.dumps(vault)
        with pytest.raises(ValueError, match="is closed"):
            await vault.get_secret("A")
        assert peer.count("hello") == 1

    run(test)


def test_tasks_never_get_each_others_answers(peer: Peer, run: Callable[[Test], None]) -> None:
    names = [f"S{number}" for number in range(8)]
    for name in names:
        peer.put(name, name.encode() * 100)

    async def test() -> None:
        async def hammer(name: str) -> None:
            for _ in range(20):
                assert await value(vault, name) == name * 100

        async with plugin(peer, *names) as vault, anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(hammer, name)
        assert peer.count("hello") == 1

    run(test)


@pytest.mark.parametrize("sent", [0, 5, -1])
def test_a_cancelled_get_never_answers_the_next(peer: Peer, run: Callable[[Test], None], sent: int) -> None:
    """Cancelled before, in the middle of, and a byte before the end of its answer."""

    def part_of_an_answer(line: Line, request: Request) -> None:
        known: dict[str, object] = {"name": "A", "version": 1, "encoding": "text"}
        whole = pack_response(request.id, known, 5) + b"wrong"
        line.send(whole[:sent])

    peer.handlers["get_secret"] = part_of_an_answer

    async def test() -> None:
        async with plugin(peer) as vault, anyio.create_task_group() as tasks:
            tasks.start_soon(value, vault)
            await until(peer, lambda: peer.count("get_secret"))
            tasks.cancel_scope.cancel()
        async with plugin(peer) as vault:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(value, vault)
                    await until(peer, lambda: peer.count("get_secret") == 2)
                    scope.cancel()
            del peer.handlers["get_secret"]
            assert await value(vault, "B") == "the value of B"
            assert await value(vault, "A") == "the value of A"

    run(test)


def test_a_cancelled_wait_leaves_the_others_alone(peer: Peer, run: Callable[[Test], None]) -> None:
    peer.lock()

    async def test() -> None:
        async with plugin(peer) as vault, anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await vault.get_secret("A", wait=60)

            async def go_on() -> None:
                assert await value(vault, "B", wait=60) == "the value of B"

            tasks.start_soon(give_up)
            tasks.start_soon(go_on)
            await until(peer, lambda: waiting(peer) == 2)
            scope.cancel()
            assert await vault.request("C") is False  # not held up by those that wait
            await anyio.to_thread.run_sync(peer.unlock)

    run(test)


def waiting(peer: Peer) -> int:
    return sum("wait" in params for _, _, params in peer.asked)


def test_a_wait_ends_with_its_time(peer: Peer, run: Callable[[Test], None]) -> None:
    def its_time_is_up(line: Line, request: Request) -> None:
        raise LockedError

    peer.handlers["get_secret"] = its_time_is_up

    async def test() -> None:
        async with plugin(peer) as vault:
            with pytest.raises(LockedError):
                await vault.get_secret("A")
            assert waiting(peer) == 0
            with pytest.raises(LockedError):
                await vault.get_secret("A", wait=60)

    run(test)
    assert waiting(peer) == 1


def test_a_restarted_daemon_is_found_again(peer: Peer, run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with plugin(peer) as vault:
            await value(vault)
            await anyio.to_thread.run_sync(peer.restart)
            assert await value(vault) == "the value of A"
            peer.handlers["hello"] = lambda line, request: (
                line.hang_up() if peer.count("hello") < 5 else peer.serve(line, request)
            )
            await anyio.to_thread.run_sync(peer.restart)
            assert await value(vault, wait=60) == "the value of A"
            await anyio.to_thread.run_sync(peer.stop)
            with pytest.raises(DaemonUnavailableError):
                await value(vault, wait=0.01)

    run(test)


def test_a_broken_answer_is_an_error_and_the_next_call_works(peer: Peer, run: Callable[[Test], None]) -> None:
    peer.handlers["grants"] = lambda line, request: line.send(b"\xc1")

    async def test() -> None:
        async with plugin(peer) as vault:
            with pytest.raises(BadRequestError, match="not MessagePack"):
                await vault.grants()
            assert await value(vault) == "the value of A"
            peer.refusal = UnknownAgentError("not you")
            await anyio.to_thread.run_sync(peer.restart)
            with pytest.raises(UnknownAgentError, match="not you"):
                await vault.grants()

    run(test)


def test_a_silent_daemon_is_given_up(peer: Peer, run: Callable[[Test], None]) -> None:
    peer.handlers["get_secret"] = lambda line, request: None

    async def test() -> None:
        async with plugin(peer, timeout=0.05) as vault:
            with pytest.raises(DaemonUnavailableError, match=r"within 0\.05 s"):
                await vault.get_secret("A")

    run(test)


def test_no_daemon_and_a_full_queue_are_errors(tmp_path: Path, run: Callable[[Test], None]) -> None:
    import socket

    async def test() -> None:
        async with AsyncVault(plugin="p", socket=f"{tmp_path}/absent.sock") as vault:
            with pytest.raises(DaemonUnavailableError, match="no such file"):
                await vault.grants()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(f"{tmp_path}/full.sock")
            listener.listen(0)
            first.connect(f"{tmp_path}/full.sock")
            async with AsyncVault(plugin="p", socket=f"{tmp_path}/full.sock", timeout=0.05) as vault:
                with pytest.raises(DaemonUnavailableError, match="temporarily unavailable"):
                    await vault.grants()

    run(test)
    (tmp_path / "full.sock").unlink()


def test_closing_ends_the_calls_of_other_tasks(peer: Peer, run: Callable[[Test], None]) -> None:
    peer.lock()

    async def test() -> None:
        vault = plugin(peer)

        async def wait() -> None:
            with pytest.raises(DaemonUnavailableError):
                await vault.get_secret("A", wait=60)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(peer, lambda: waiting(peer))
            await vault.aclose()
        await vault.aclose()

    run(test)


def test_rotations_are_awaited_also_after_a_restart(peer: Peer, run: Callable[[Test], None]) -> None:
    async def test() -> None:
        told: list[str] = []
        event = anyio.Event()

        async def on_rotated(name: str) -> None:
            nonlocal event
            told.append(await value(vault, name))
            event.set()
            event = anyio.Event()

        async with plugin(peer) as vault, anyio.create_task_group() as tasks:
            tasks.start_soon(vault.watch, on_rotated)
            for turn in range(2):
                await until(peer, lambda: peer.greeted() == 1)
                rotated = event
                peer.tell("locked")
                peer.tell("rotated", name="A")
                await rotated.wait()
                assert told == ["the value of A"] * (turn + 1)
                await anyio.to_thread.run_sync(peer.restart)
            tasks.cancel_scope.cancel()

    run(test)


def test_what_the_callback_raises_ends_the_watch(peer: Peer, run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async def on_rotated(name: str) -> None:
            raise DaemonUnavailableError("of the plugin's own making")

        async def watch() -> None:
            with pytest.raises(DaemonUnavailableError, match="own making"):
                await vault.watch(on_rotated)

        async with plugin(peer) as vault, anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await until(peer, lambda: peer.greeted() == 1)
            peer.tell("rotated", name="A")

    run(test)
