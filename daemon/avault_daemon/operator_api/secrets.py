"""Secrets as the operator handles them."""

from __future__ import annotations

from itertools import accumulate

from avault_protocol import BadRequestError, TooLargeError, limits

from ..serving.conversation import Answer
from .turn import Handler, Turn


async def put(turn: Turn) -> Answer:
    """Store all items in one transaction."""
    items = turn.params["items"]
    size = sum(item["size"] for item in items)
    if size > limits.MAX_VALUES:
        raise TooLargeError(
            f"put: {size} bytes of values are more than {limits.MAX_VALUES}", hint="put less at once"
        )
    if turn.value is None or size != len(turn.value):
        raise BadRequestError("put: the sizes of the items do not add up to the value's")
    secrets = [
        (item["name"], item["encoding"], turn.value[end - item["size"] : end])
        for item, end in zip(items, accumulate(item["size"] for item in items), strict=True)
    ]
    stored = await turn.core.vault.put(secrets, replace=turn.params.get("replace", False))
    return Answer({"stored": [{"name": name, "version": version} for name, version in stored]})


async def reveal(turn: Turn) -> Answer:
    """Give a value to the operator."""
    return Answer({}, turn.core.vault.value(turn.params["name"], turn.params.get("version")))


async def list_secrets(turn: Turn) -> Answer:
    """List what is there by name, at most `limit` at once, and who may read it; never values."""
    core, after, limit = turn.core, turn.params.get("after", ""), turn.params.get("limit", 1000)
    found = [info for info in await core.vault.secrets() if info.name > after]
    readers = core.vault.policy.readers
    return Answer(
        {
            "secrets": [
                {
                    "name": info.name,
                    "version": info.version,
                    "created": info.created,
                    "encoding": info.encoding,
                    "readers": readers(info.name),
                    "last_use": core.record.last_use(info.name),
                }
                for info in found[:limit]
            ],
            "more": len(found) > limit,
        }
    )


async def rm(turn: Turn) -> Answer:
    """Remove a secret with all its versions."""
    await turn.core.vault.rm(turn.params["name"])
    return Answer({})


async def history(turn: Turn) -> Answer:
    """List the versions of a secret that can still be read."""
    versions = turn.core.vault.history(turn.params["name"])
    newest = max(info.version for info in versions)
    return Answer(
        {
            "versions": [
                {"version": info.version, "created": info.created, "current": info.version == newest}
                for info in versions
            ]
        }
    )


async def restore(turn: Turn) -> Answer:
    """Make an earlier version the newest."""
    version = await turn.core.vault.restore(turn.params["name"], turn.params["version"])
    return Answer({"version": version})


HANDLERS: dict[str, Handler] = {
    "put": put,
    "reveal": reveal,
    "list": list_secrets,
    "rm": rm,
    "history": history,
    "restore": restore,
}
