"""Which module holds which command. A run of `avault` imports the one that it needs."""

from __future__ import annotations

from avault_client.cli.grammar import WrongUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from avault_client.cli.grammar import Command

MODULES: dict[str, str] = {
    "init": "vault",
    "unlock": "vault",
    "lock": "vault",
    "status": "status",
    "doctor": "doctor",
    "shell": "shell",
    "set": "secrets",
    "get": "secrets",
    "list": "secrets",
    "rm": "secrets",
    "history": "secrets",
    "restore": "secrets",
    "import": "transfer",
    "agents": "agents",
    "agent": "agents",
    "grant": "grants",
    "revoke": "grants",
    "requests": "requests",
    "approve": "requests",
    "deny": "requests",
    "slot": "slots",
    "audit": "audit",
    "export": "copies",
    "restore-vault": "copies",
    "rekey": "copies",
    "install-service": "service",
    "completion": "completion",
}
"""First word of a command -> its module, in the order of the help."""


def load(word: str) -> list[Command]:
    """Return the commands whose name begins with *word*; raise `WrongUse` if there is none."""
    module = MODULES.get(word)
    if module is None:
        raise WrongUse("there is no such command", _nearest(word))
    # Not importlib, which is not imported yet when a command starts.
    loaded = __import__(f"{__name__}.{module}", fromlist=["COMMANDS"])
    commands: tuple[Command, ...] = loaded.COMMANDS
    return [command for command in commands if command.name.split()[0] == word]


def find(words: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """Return the command that *words* begin with, and the words behind its name."""
    commands = load(words[0])
    for command in commands:
        name = command.name.split()
        if words[: len(name)] == name:
            return command, words[len(name) :]
    known = ", ".join(command.name for command in commands)
    raise WrongUse(f"{words[0]} needs a second word", f"one of: {known}")


def all_commands() -> Iterator[Command]:
    """Yield every command, in the order of the help."""
    for word in MODULES:
        yield from load(word)


def overview() -> str:
    """Return the help of `avault` itself."""
    commands = list(all_commands())
    width = max(len(command.name) for command in commands)
    listed = "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in commands)
    return (
        "usage: avault COMMAND ...\n\nsecrets for agents, out of their environment\n\n"
        f"{listed}\n\nmore about one: avault COMMAND --help\n"
    )


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, MODULES, 1)
    return f"did you mean {near[0]}?" if near else "see: avault --help"
