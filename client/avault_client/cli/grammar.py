"""What a command line may look like: one declaration makes the parser, the help and the completion scripts.

Not argparse: importing it costs more than all else that `avault status` does.

A message about wrong use never repeats what stood where nothing was expected: it may be a secret that someone
took for an argument.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from .session import Session

    Result = dict[str, Any]
    Run = Callable[[Session, "Parsed"], "Result | int | None"]
    Lines = Callable[[Result], Iterable[str]]
    Given = "bool | str | list[str]"

FILE = "FILE"


class WrongUse(Exception):
    """The command line is not one of this command's; exit status 2."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)


class Argument:
    """A positional argument; *many* takes one or more, unless it is *optional*."""

    __slots__ = ("choices", "many", "meaning", "name", "optional")

    def __init__(
        self,
        name: str,
        meaning: str,
        *,
        many: bool = False,
        optional: bool = False,
        choices: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.many = many
        self.optional = optional
        self.choices = choices

    def usage(self) -> str:
        """Return how the usage line shows it."""
        shown = "|".join(self.choices) or self.name
        if self.many:
            shown += "..."
        return f"[{shown}]" if self.optional else shown


class Option:
    """``--name``, a flag; with a *metavar*, ``--name VALUE``; with *many*, ``--name VALUE...``, also repeated."""

    __slots__ = ("many", "meaning", "metavar", "name")

    def __init__(self, name: str, meaning: str, metavar: str | None = None, *, many: bool = False) -> None:
        self.name = name
        self.meaning = meaning
        self.metavar = metavar
        self.many = many

    def usage(self) -> str:
        """Return how the help shows it."""
        if self.metavar is None:
            return f"--{self.name}"
        return f"--{self.name} {self.metavar}" + ("..." if self.many else "")


JSON = Option("json", "print the result as JSON")
HELP = Option("help", "show this help")


def passphrase_options(which: str, prefix: str = "") -> tuple[Option, Option]:
    """Return the pair of options that give a passphrase without a terminal."""
    return (
        Option(f"{prefix}passphrase-fd", f"read {which} from this file descriptor, up to a newline", "N"),
        Option(f"{prefix}passphrase-file", f"read {which} from the first line of this file", FILE),
    )


PROOF = passphrase_options("the vault's passphrase")
PHONE = Option("phone", "let your phone allow it, in place of a passphrase")
PROOF_OR_PHONE = (*PROOF, PHONE)


class Parsed:
    """What a command line said."""

    __slots__ = ("given",)

    def __init__(self, given: Mapping[str, bool | str | list[str]]) -> None:
        self.given = given

    def flag(self, name: str) -> bool:
        """Return whether the flag is there."""
        return name in self.given

    def optional(self, name: str) -> str | None:
        """Return the text given for *name*, if any."""
        value = self.given.get(name)
        return value if isinstance(value, str) else None

    def text(self, name: str) -> str:
        """Return the text of a required argument."""
        value = self.given[name]
        assert isinstance(value, str)  # noqa: S101
        return value

    def texts(self, name: str) -> list[str]:
        """Return everything given for *name*."""
        value = self.given.get(name)
        return value if isinstance(value, list) else []

    def number(self, name: str) -> int | None:
        """Return the whole number given for *name*, if any."""
        value = self.optional(name)
        return None if value is None else whole(value, f"--{name}")


def whole(text: str, where: str) -> int:
    """Return *text* as a whole number; raise `WrongUse` if it is none."""
    if not text.isascii() or not text.isdigit():
        raise WrongUse(f"{where} takes a whole number")
    return int(text[:20])


class Command:
    """One command: its words, what it takes, what it does.

    *run* returns a result, an exit status, or None; *lines* turns a result into what a person reads, and a command
    that has it also has ``--json``.
    """

    __slots__ = ("arguments", "details", "example", "lines", "name", "options", "run", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        run: Run,
        *,
        lines: Lines | None = None,
        arguments: Sequence[Argument] = (),
        options: Sequence[Option] = (),
        example: str,
        details: str = "",
    ) -> None:
        self.name = name
        self.summary = summary
        self.run = run
        self.lines = lines
        self.arguments = arguments
        self.options = (*options, JSON, HELP) if lines else (*options, HELP)
        self.example = example
        self.details = details

    def parse(self, words: Sequence[str]) -> Parsed:
        """Return what *words* say; raise `WrongUse`."""
        return _Parser(self).parse(words)

    def usage(self) -> str:
        """Return the one line that shows the shape of this command."""
        parts = [argument.usage() for argument in self.arguments]
        parts += [f"[{option.usage()}]" for option in self.options if option is not HELP]
        return " ".join(["avault", self.name, *parts])

    def help(self) -> str:
        """Return the whole help."""
        rows = [(argument.name, argument.meaning) for argument in self.arguments]
        rows += [(option.usage(), option.meaning) for option in self.options]
        width = max(len(left) for left, _ in rows)
        listed = "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
        details = f"\n{self.details.strip()}\n" if self.details else ""
        return f"usage: {self.usage()}\n\n{self.summary}\n{details}\n{listed}\n\nexample:\n  {self.example}\n"


class _Parser:
    """Goes over the words of one command line once."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.options = {option.name: option for option in command.options}
        self.given: dict[str, bool | str | list[str]] = {}
        self.plain: list[str] = []

    def parse(self, words: Sequence[str]) -> Parsed:
        waiting = list(reversed(words))
        while waiting:
            word = waiting.pop()
            if word == "--":
                self.plain += reversed(waiting)
                break
            if word.startswith("-") and word != "-":
                self.option(word, waiting)
            else:
                self.plain.append(word)
        if "help" not in self.given:
            self.arguments()
        return Parsed(self.given)

    def option(self, word: str, waiting: list[str]) -> None:
        name, equals, attached = word.partition("=")
        option = self.options.get("help" if name == "-h" else name[2:] if name.startswith("--") else "")
        if option is None:
            raise self.wrong(f"{self.command.name} has no {_shown(name)}")
        if option.name in self.given and not option.many:
            raise self.wrong(f"--{option.name} is given twice")
        if option.metavar is None:
            if equals:
                raise self.wrong(f"--{option.name} takes no value")
            self.given[option.name] = True
            return
        values = [attached] if equals else self.values(option, waiting)
        self.given[option.name] = [*self.gathered(option), *values] if option.many else values[0]

    def gathered(self, option: Option) -> list[str]:
        value = self.given.get(option.name)
        return value if isinstance(value, list) else []

    def values(self, option: Option, waiting: list[str]) -> list[str]:
        values: list[str] = []
        while waiting and not (waiting[-1].startswith("-") and waiting[-1] != "-"):
            values.append(waiting.pop())
            if not option.many:
                break
        if not values:
            raise self.wrong(f"--{option.name} takes {option.metavar}")
        return values

    def arguments(self) -> None:
        rest = self.plain
        for argument in self.command.arguments:
            if not rest and argument.optional:
                continue
            if not rest:
                raise self.wrong(f"{self.command.name} needs {argument.usage()}")
            if argument.choices and rest[0] not in argument.choices:
                raise self.wrong(f"{argument.name} is one of: {', '.join(argument.choices)}")
            self.given[argument.name] = rest if argument.many else rest[0]
            rest = [] if argument.many else rest[1:]
        if rest:
            raise self.wrong(f"{self.command.name} got more than it takes: a value is never an argument")

    def wrong(self, message: str) -> WrongUse:
        return WrongUse(message, f"usage: {self.command.usage()}")


def _shown(name: str) -> str:
    """Return an unknown option as an error may show it: only what looks like one, for `-x7f…` may be a secret."""
    looks = (
        name.startswith("--")
        and name[2:].replace("-", "").isalpha()
        and name.isascii()
        and name.islower()
        and len(name) <= 30
    )
    return f"option {name}" if looks else "such option"
