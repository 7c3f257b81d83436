"""The client for trio and asyncio: the same conversation, waited for by anyio."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import anyio
except ImportError as error:
    raise ImportError("AsyncVault needs anyio: pip install 'avault-client[async]'") from error

from avault_protocol import AvaultError, DaemonUnavailableError, LockedError

from ._async_connection import AsyncConnection
from ._connection import ConnectionLostError
from ._listener import LONGEST_PAUSE, rotated_name
from ._patience import FOR_EVER, SHORTEST_PAUSE, Patience
from ._profile import TIMEOUT, Grants, Profile, checked, grants_in, is_granted, secret_in
from ._question import Question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import NoReturn, Self

    from ._conversation import Answer
    from ._secret import Secret


class AsyncVault:
    """`Vault` for trio and asyncio. Any number of tasks of one event loop may use one.

    Cancelling any call is safe: its connection is closed, and the next call makes a new one, so that no answer ever
    goes to another question. Whether the daemon has served a cancelled `get_secret` is in its record.
    """

    def __init__(
        self,
        *,
        plugin: str,
        secrets: Iterable[str] = (),
        agent: str | None = None,
        socket: str | None = None,
        wait: float | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Say who asks; the parameters are those of `Vault`."""
        self._profile = Profile(plugin, secrets, agent=agent, socket=socket, wait=wait, timeout=timeout)
        self._turn = anyio.Lock()
        self._shared: AsyncConnection | None = None
        self._open: set[AsyncConnection] = set()
        self._closed = False

    @property
    def plugin(self) -> str:
        """The name of the plugin."""
        return self._profile.plugin

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names that are declared, those added by `request` included."""
        return self._profile.declared

    async def get_secret(self, name: str, *, wait: float | None = None) -> Secret:
        """Return the newest version of secret *name*; see `Vault.get_secret`."""
        patience = self._profile.patience(wait)
        while True:
            try:
                return secret_in(await self._get(name, patience), name)
            except DaemonUnavailableError:
                pause = patience.pause()
                if self._closed or not pause:
                    raise
            await anyio.sleep(pause)

    async def request(self, name: str, reason: str = "") -> bool:
        """Declare one more secret, and ask the operator for it; see `Vault.request`."""
        answer = await self._ask(Question("request", {"name": name, "reason": reason}))
        self._profile.declare(name)
        return is_granted(answer)

    async def grants(self) -> Grants:
        """Return which declared names are granted and which wait for the operator."""
        return grants_in(await self._ask(Question("grants", {})))

    async def watch(self, on_rotated: Callable[[str], Awaitable[object]]) -> NoReturn:
        """Await *on_rotated* with the name of each granted secret that has a new version, until cancelled.

        It runs in the calling task, on a connection of its own, and finds a lost daemon again; what rotates meanwhile
        is not told. What *on_rotated* raises ends it.
        """
        connection = await self._find()
        try:
            while True:
                try:
                    notification = await connection.notification()
                except AvaultError:
                    self._end(connection)
                    await anyio.sleep(SHORTEST_PAUSE)
                    connection = await self._find()
                    continue
                name = rotated_name(notification)
                if name is not None:
                    await on_rotated(name)
        finally:
            self._end(connection)

    async def aclose(self) -> None:
        """Close all connections. Calls of other tasks end with an error. To close twice does nothing."""
        self._closed = True
        for connection in tuple(self._open):
            self._end(connection)

    async def _get(self, name: str, patience: Patience) -> Answer:
        try:
            return await self._ask(self._profile.question(name))
        except LockedError:
            left = patience.left()
            if not left:
                raise
        connection = await self._connect()
        try:
            question = Question("get_secret", {"name": name, "wait": left})
            return checked(await connection.call(question, left))
        finally:
            self._end(connection)

    async def _ask(self, question: Question) -> Answer:
        async with self._turn:
            if self._shared is not None and not self._shared.closed:
                try:
                    return checked(await self._shared.call(question))
                except ConnectionLostError:
                    pass  # as after a restart of the daemon; the new one gets its own hello
            if self._shared is not None:
                self._end(self._shared)
            self._shared = await self._new()
            return checked(await self._shared.call(question, hello=self._profile.hello()))

    async def _connect(self) -> AsyncConnection:
        """Return a new connection on which hello has been said."""
        connection = await self._new()
        try:
            checked(await connection.call(self._profile.hello()))
        except BaseException:
            self._end(connection)
            raise
        return connection

    async def _new(self) -> AsyncConnection:
        if self._closed:
            raise ValueError("the vault is closed")
        connection = AsyncConnection(self._profile.path(), self._profile.timeout)
        self._open.add(connection)
        try:
            await connection.connect()
        except BaseException:
            self._end(connection)
            raise
        return connection

    async def _find(self) -> AsyncConnection:
        """Return a new connection, however long it takes until there is one."""
        patience = Patience(FOR_EVER, longest=LONGEST_PAUSE)
        while True:
            try:
                return await self._connect()
            except AvaultError:
                await anyio.sleep(patience.pause())

    def _end(self, connection: AsyncConnection) -> None:
        connection.close()
        self._open.discard(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncVault({self._profile})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a vault is neither pickled nor copied: it is a connection of this process")
