"""nostr-sdk's LocalRelay on loopback: prints its URL, then serves until standard input ends.

Usage: local_relay.py PORT [AUTH]; AUTH: NONE, READ, WRITE or BOTH (NIP-42).
"""

from __future__ import annotations

import asyncio
import sys

from nostr_sdk import (  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
    LocalRelayBuilder,
    LocalRelayBuilderNip42,
    LocalRelayBuilderNip42Mode,
    RateLimit,
)


async def main(port: int, auth: str) -> None:
    # By default it takes 60 events a minute.
    builder = LocalRelayBuilder().addr("127.0.0.1").port(port)
    builder = builder.rate_limit(RateLimit(max_reqs=500, notes_per_minute=60000))
    if auth != "NONE":
        builder = builder.nip42(LocalRelayBuilderNip42(mode=LocalRelayBuilderNip42Mode[auth]))
    relay = builder.build()
    await relay.run()
    print(await relay.url(), flush=True)  # noqa: T201 - the protocol with the test
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    relay.shutdown()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "NONE"))
