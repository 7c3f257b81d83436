"""Completion for shells, from the same declarations that make the parser."""

from __future__ import annotations

from avault_client.cli import commands
from avault_client.cli.grammar import FILE, Argument, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from avault_client.cli.grammar import Option, Parsed
    from avault_client.cli.session import Session


def completion(session: Session, parsed: Parsed) -> None:
    """Print the script for one shell."""
    print(SHELLS[parsed.text("SHELL")](list(commands.all_commands())), end="")


def _next_words(known: list[Command]) -> dict[str, list[str]]:
    """Return, for each beginning of a command, the words that may follow it."""
    following: dict[str, list[str]] = {}
    for command in known:
        words = command.name.split()
        for count in range(len(words)):
            here = following.setdefault(" ".join(words[:count]), [])
            if words[count] not in here:
                here.append(words[count])
        choices = [choice for argument in command.arguments for choice in argument.choices]
        options = [f"--{option.name}" for option in command.options]
        following[command.name] = choices + options
    return following


def _takes_file(known: list[Command]) -> list[str]:
    """Return the options and commands behind which a file stands."""
    options = {
        f"--{option.name}" for command in known for option in command.options if option.metavar == FILE
    }
    named = {command.name for command in known if any(a.name == FILE for a in command.arguments)}
    return sorted(options | named)


def bash(known: list[Command]) -> str:
    """Return the script for bash."""
    cases = "\n".join(
        f"        {_pattern(at)}) words='{' '.join(w)}' ;;" for at, w in _next_words(known).items()
    )
    return f"""# avault: completion for bash. To use it: eval "$(avault completion bash)"
_avault() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" at="" words="" word
    case "$previous" in
        {"|".join(_takes_file(known))}) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    esac
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at${{at:+ }}$word" in
            {"|".join(_pattern(at) for at in _next_words(known) if at)}) at="$at${{at:+ }}$word" ;;
        esac
    done
    case "$at" in
{cases}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F _avault avault
"""


def _pattern(at: str) -> str:
    return f'"{at}"'


def zsh(known: list[Command]) -> str:
    """Return the script for zsh."""
    cases = "\n".join(
        f"        {_pattern(at)}) words_here=({' '.join(w)}) ;;" for at, w in _next_words(known).items()
    )
    return f"""#compdef avault
# avault: completion for zsh. To use it: avault completion zsh > a directory of $fpath, as _avault
_avault() {{
    local at="" word
    local -a words_here
    case "$words[CURRENT-1]" in
        {"|".join(_takes_file(known))}) _files; return ;;
    esac
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$at${{at:+ }}$word" in
            {"|".join(_pattern(at) for at in _next_words(known) if at)}) at="$at${{at:+ }}$word" ;;
        esac
    done
    case "$at" in
{cases}
    esac
    compadd -- $words_here
}}
if [ "$funcstack[1]" = "_avault" ]; then _avault "$@"; else compdef _avault avault; fi
"""


def fish(known: list[Command]) -> str:
    """Return the script for fish."""
    lines = [
        "# avault: completion for fish. To use it: avault completion fish | source",
        "complete -c avault -f",
    ]
    first = dict.fromkeys(command.name.split()[0] for command in known)
    for word in first:
        summary = next(command.summary for command in known if command.name.split()[0] == word)
        lines.append(f"complete -c avault -n __fish_use_subcommand -a {word} -d {quoted(summary)}")
    for command in known:
        lines += _fish_of(command)
    return "\n".join(lines) + "\n"


def _fish_of(command: Command) -> list[str]:
    first, *second = command.name.split()
    seen = f"__fish_seen_subcommand_from {first}"
    lines: list[str] = []
    if second:
        lines.append(f"complete -c avault -n {quoted(seen)} -a {second[0]} -d {quoted(command.summary)}")
        seen += f"; and __fish_seen_subcommand_from {second[0]}"
    lines += [_fish_option(seen, option) for option in command.options]
    lines += [
        _fish_argument(seen, argument)
        for argument in command.arguments
        if argument.choices or argument.name == FILE
    ]
    return lines


def _fish_option(seen: str, option: Option) -> str:
    takes = "" if option.metavar is None else " -r -F" if option.metavar == FILE else " -x"
    return f"complete -c avault -n {quoted(seen)} -l {option.name}{takes} -d {quoted(option.meaning)}"


def _fish_argument(seen: str, argument: Argument) -> str:
    what = "-F" if argument.name == FILE else f"-a {quoted(' '.join(argument.choices))}"
    return f"complete -c avault -n {quoted(seen)} {what} -d {quoted(argument.meaning)}"


def quoted(text: str) -> str:
    """Return *text* as one word of fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[list[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}

COMMANDS = (
    Command(
        "completion",
        "print the completion script for a shell",
        completion,
        arguments=(Argument("SHELL", "the shell", choices=tuple(SHELLS)),),
        example='eval "$(avault completion bash)"',
    ),
)
