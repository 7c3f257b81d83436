"""Importing what lies elsewhere in plain text."""

from __future__ import annotations

import os

from avault_client.cli import envfile, values
from avault_client.cli.grammar import FILE, PROOF_OR_PHONE, Command, Option, WrongUse
from avault_client.cli.hidden import Hidden, read_all
from avault_client.cli.output import note, some
from avault_protocol import BadRequestError, NotFoundError, TooLargeError, check_secret_name, is_secret_name
from avault_protocol.limits import MAX_ITEMS, MAX_VALUES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

    Found = dict[str, str | bytes]

# Bytes. The values in it may be 1 MiB; names, comments and quotes are small beside them.
MAX_FILE = 4 * 1024 * 1024
SOURCES = ("env", "env-file", "json-file")


def import_(session: Session, parsed: Parsed) -> Result:
    """Store everything found, in one transaction."""
    found, origin = _find(parsed)
    chosen = _choose(found, parsed.texts("only"), parsed.texts("except"), origin)
    items, content = _pack(chosen)
    with content:
        params = {"items": items, "replace": parsed.flag("replace")}
        stored = session.call("put", params, content.view, working=f"importing {some(len(items), 'secret')}")
    return {**stored, "origin": origin}


def _find(parsed: Parsed) -> tuple[Found, str]:
    given = [source for source in SOURCES if parsed.flag(source)]
    if len(given) != 1:
        raise WrongUse("import takes one of --env, --env-file and --json-file", "see: avault import --help")
    if given == ["env"]:
        return _from_environment(parsed.texts("env")), "the environment"
    path = parsed.text(given[0])
    read = from_env_file if given == ["env-file"] else from_json_file
    try:
        return read(_content(path)), path
    except BadRequestError as error:
        raise BadRequestError(f"{path}: {error.message}", hint=error.hint) from None


def _from_environment(names: Iterable[str]) -> Found:
    found: Found = {}
    for name in map(check_secret_name, names):
        value = os.environb.get(name.encode())
        if value is None:
            raise NotFoundError(f"the environment holds no {name}")
        found[name] = value
    return found


def _content(path: str) -> bytearray:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = read_all(fd, MAX_FILE, path)
    finally:
        os.close(fd)
    with read:
        return bytearray(read.view)


def from_env_file(content: bytes | bytearray) -> Found:
    """Return what an env file gives; the last of several values counts, as in a shell."""
    return {entry.name: entry.value for entry in envfile.parse(content)}


def from_json_file(content: bytes | bytearray) -> Found:
    """Return what a JSON object of names and strings gives; raise `BadRequestError`, which shows no content."""
    import json

    try:
        pairs: object = json.loads(content, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        # Not the error itself: it holds the whole document.
        where = (
            f": line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        problem = f"is no JSON{where}"
    else:
        if isinstance(pairs, _Pairs):
            return _named_strings(pairs)
        problem = "is no JSON object of names and strings"
    raise BadRequestError(problem)


class _Pairs(list[tuple[str, object]]):
    """A JSON object, with what it says twice; an array is a plain list."""


def _named_strings(pairs: _Pairs) -> Found:
    found: Found = {}
    for number, (name, value) in enumerate(pairs, 1):
        if not is_secret_name(name):
            raise BadRequestError(f"entry {number} begins with something that is no name of a secret")
        if not isinstance(value, str):
            raise BadRequestError(f"the value of {name} is no string")
        if name in found:
            raise BadRequestError(f"{name} is there twice")
        found[name] = value
    return found


def _choose(found: Found, only: list[str], but: list[str], origin: str) -> Found:
    for name in (*only, *but):
        if name not in found:
            raise NotFoundError(f"{origin} holds no {check_secret_name(name)}")
    chosen = {name: value for name, value in found.items() if name not in but and (not only or name in only)}
    for name in [name for name, value in chosen.items() if not value]:
        note(f"left out {name}: its value is empty")
        del chosen[name]
    if not chosen:
        raise BadRequestError(f"there is nothing to import from {origin}")
    return chosen


def _pack(chosen: Found) -> tuple[list[dict[str, object]], Hidden]:
    """Return the items of one `put`, and all values after each other; refuse what would be too much for it."""
    if len(chosen) > MAX_ITEMS:
        raise TooLargeError(
            f"{len(chosen):,} secrets are more than {MAX_ITEMS:,} at once",
            hint="import in parts, with --only",
        )
    stored = [(name, *_stored(name, value)) for name, value in chosen.items()]
    size = sum(value.size for _, value, _ in stored)
    if size > MAX_VALUES:
        raise TooLargeError(
            f"{size:,} bytes of values are more than {MAX_VALUES:,} at once",
            hint="import in parts, with --only",
        )
    items: list[dict[str, object]] = []
    together = Hidden(size)
    for name, value, encoding in stored:
        with value:
            items.append({"name": name, "size": value.size, "encoding": encoding})
            together.append(value)
    return items, together


def _stored(name: str, value: str | bytes) -> tuple[Hidden, str]:
    try:
        content = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        content = None  # raised below: the error holds the value
    if content is None:
        raise BadRequestError(f"the value of {name} is no valid Unicode")
    return values.encoded(Hidden.of(content), name)


def _lines(result: Result) -> Iterator[str]:
    for stored in result["stored"]:
        yield f"stored {stored['name']}, version {stored['version']}"
    yield f"{result['origin']} still holds them in plain text: take them out of it"


COMMANDS = (
    Command(
        "import",
        "store secrets from an env file, a JSON file or the environment",
        import_,
        lines=_lines,
        options=(
            Option("env", "take these variables of the environment", "NAME", many=True),
            Option("env-file", "take all NAME=value lines of this file", FILE),
            Option("json-file", "take all strings of the JSON object in this file", FILE),
            Option("only", "take these and no others", "NAME", many=True),
            Option("except", "leave these out", "NAME", many=True),
            Option("replace", "give names that are there already a new version, instead of refusing"),
            *PROOF_OR_PHONE,
        ),
        example="avault import --env-file .env --except LOG_LEVEL",
        details="""
All or nothing: at most 1,024 secrets and 1 MiB of values at once. Shows names, never values. Variables such as
$HOME in an env file stay as they are; empty values are left out.""",
    ),
)
