"""How an agent is recognised: the options that say so, and how it is shown."""

from __future__ import annotations

from avault_protocol import BadRequestError, is_agent_name

from .grammar import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .grammar import Parsed, Result

SELECTORS = (
    Option("uid", "it runs as this user, or one of these: a number or a name", "U", many=True),
    Option("unit", "it runs in this system unit, or one of these", "UNIT", many=True),
    Option("socket", "it comes through a socket of its own, to be mounted into its sandbox"),
)
INSIDE = "/run/avault"


def given(parsed: Parsed) -> dict[str, object]:
    """Return the parameters that the options give; none that was left out."""
    params: dict[str, object] = {}
    if parsed.flag("uid"):
        params["uids"] = sorted({_uid(name) for name in parsed.texts("uid")})
    if parsed.flag("unit"):
        params["units"] = sorted(set(parsed.texts("unit")))
    if parsed.flag("socket"):
        params["socket"] = True
    return params


def _uid(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name[:20])
    from pwd import getpwnam

    try:
        return getpwnam(name).pw_uid
    except KeyError:
        shown = f"user {name}" if is_agent_name(name) else "such user"
        raise BadRequestError(f"there is no {shown} here", hint="give the number") from None


def shown(agent: Result) -> str:
    """Return how *agent* is recognised, in a few words."""
    parts = [_any_of("uid", agent["uids"]), _any_of("unit", agent["units"])]
    if agent["socket"]:
        parts.append("own socket")
    return " and ".join(part for part in parts if part)


def _any_of(kind: str, values: list[object]) -> str:
    return f"{kind} " + "|".join(str(value) for value in values) if values else ""


def mount_lines(directory: str) -> Iterator[str]:
    """Yield how *directory*, which holds an agent's own socket, gets into a sandbox.

    The directory, not the socket: a daemon that starts anew makes a new socket, and a mount would keep the old one.
    """
    from shlex import quote

    variable = f"AVAULT_RUNTIME_DIR={INSIDE}"
    volume, name = quote(f"{directory}:{INSIDE}"), variable.replace("=", " ")
    yield f"  bubblewrap:      --ro-bind {quote(directory)} {INSIDE} --setenv {name}"
    yield f"  docker, podman:  -v {volume} -e {variable}"
