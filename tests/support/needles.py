"""Values planted where they may be and where they may not, and the search for them in all that is written anywhere.

A needle is looked for in every form of `forms`, and in part: so that an error which shows the beginning of a value is
found, any 8 bytes of it in a row count, and any 15 in another form. Needles are random, or such a run would be an
accident.
"""

from __future__ import annotations

import base64
import gc
import logging
import secrets
import string
import traceback
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

PIECE = 8
"""Characters of a form that are looked for at once."""
_WIDTH = {"hex": 2, "HEX": 2, "bytes": 4}
"""Characters of a form that say one byte; of fewer, too few would be random."""


def forms(value: bytes) -> dict[str, bytes]:
    """Return what a copy of *value* may look like. Its letters and digits look the same however a text is escaped."""
    found = {
        "raw": value,
        "reversed": value[::-1],
        "hex": value.hex().encode(),
        "HEX": value.hex().upper().encode(),
        "bytes": repr(value)[2:-1].encode(),
    }
    for shift in range(3):
        # Inside a longer text in base64 a value begins at any of three bits; the characters it shares are left out.
        whole = base64.b64encode(bytes(shift) + value + bytes(2))
        inner = whole[(8 * shift + 5) // 6 : 8 * (shift + len(value)) // 6]
        found[f"base64, {shift}"] = inner
        found[f"base64url, {shift}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def token(size: int = 40) -> str:
    """Return random letters and digits, a letter first: a well-formed name of a secret."""
    alphabet = string.ascii_letters + string.digits
    return secrets.choice(string.ascii_letters) + "".join(secrets.choice(alphabet) for _ in range(size - 1))


def lower(size: int = 40) -> str:
    """Return a random well-formed name of an agent."""
    alphabet = string.ascii_lowercase + string.digits
    return secrets.choice(string.ascii_lowercase) + "".join(secrets.choice(alphabet) for _ in range(size - 1))


def odd() -> str:
    """Return a random printable text that is nothing's name, with things in it that get escaped."""
    return " {}\"{}\\{}\u20ac{}'".format(*(token(12) for _ in range(4)))


class Hit(NamedTuple):
    """A needle found: its label and the form it had. Never the value: an assertion would show it."""

    label: str
    form: str


class Needles:
    """The values planted so far."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._pieces: dict[bytes, Hit] = {}

    def plant(self, label: str, value: str | bytes | None = None) -> str:
        """Remember *value* (by default something `odd`) as *label*; return it as a text."""
        chosen = odd() if value is None else value
        raw = chosen.encode() if isinstance(chosen, str) else chosen
        self.values[label] = raw
        for form, content in forms(raw).items():
            size = PIECE * _WIDTH.get(form, 1)
            last = max(len(content) - size, 0)
            for start in (*range(0, last, 1 if form == "raw" else size), last):
                self._pieces.setdefault(content[start : start + size], Hit(label, form))
        return raw.decode(errors="backslashreplace")

    def found(self, content: bytes | str) -> set[Hit]:
        """Return which needles *content* holds."""
        raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        return {hit for piece, hit in self._pieces.items() if piece in raw}

    def check(self, where: str, content: bytes | str, *, but: Collection[str] = ()) -> None:
        """Fail if *content* holds any needle; those labelled as in *but* may be there."""
        hits = sorted(hit for hit in self.found(content) if hit.label not in but)
        assert not hits, f"{where} holds {hits}"

    def check_files(self, *folders: Path, but: Collection[str] = ()) -> int:
        """Fail if any file below *folders* holds a needle, by content or by name; return how many there are."""
        files = [path for folder in folders for path in folder.rglob("*")]
        for path in files:
            self.check("a file's name", str(path), but=but)
            if path.is_file():
                self.check(str(path), path.read_bytes(), but=but)
        return len(files)

    def check_objects(self, *roots: object, but: Collection[str] = ()) -> int:
        """Fail if anything reachable from *roots* holds a needle or shows one as repr(); return how many there are."""
        texts = [_text(thing) for thing in reachable(*roots)]
        if {hit.label for hit in self.found(b"\0".join(texts))}.difference(but):
            for text in texts:
                self.check(f"an object, {text[:20]!r}…,", text, but=but)
        return len(texts)

    def check_error(
        self, error: BaseException, *, package: str = "avault_", but: Collection[str] = ()
    ) -> None:
        """Fail if *error*, all that it was raised from, or the variables of a frame of *package* show a needle.

        Frames of others are left out: a test holds what it has planted.
        """
        shown = traceback.TracebackException.from_exception(error, capture_locals=True, compact=False)
        for part in _parts(shown):
            part.stack[:] = [frame for frame in part.stack if f"/{package}" in frame.filename]
        self.check("a traceback with variables", "".join(shown.format()), but=but)
        for link in _chain(error):
            self.check(f"a {type(link).__name__}", f"{link} {link!r} {link.args!r} {vars(link)!r}", but=but)


def _text(thing: object) -> bytes:
    """Return the content of a text, of anything else what it looks like."""
    if isinstance(thing, (bytes, bytearray)):
        return bytes(thing)
    return (thing if isinstance(thing, str) else repr(thing)).encode(errors="surrogateescape")


def _parts(shown: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield shown
    for inner in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if inner is not None:
            yield from _parts(inner)


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    for link in (error.__cause__, error.__context__, *inner):  # hidden by `from None` or not
        if link is not None:
            yield from _chain(link)


class Ear(logging.Handler):
    """Hears all that is logged, at every level, and keeps it with everything that a handler could make of it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*: its text, its fields and the traceback with all variables of avault's frames."""
        self.heard.append(f"{record.getMessage()} {vars(record)!r} {record.args!r} {self.format(record)}")
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self.heard.extend(
                traceback.TracebackException.from_exception(error, capture_locals=True).format()
            )


_LEAVES = (type, types.ModuleType, int, float, complex, bool, type(None))


def reachable(*roots: object) -> Iterator[object]:
    """Yield what can be reached from *roots*: through containers, attributes, methods and what functions enclose.

    Of objects that are not avault's the attributes are left out: by trio's one comes to everything, this test too.
    """
    seen: set[int] = set()
    keep: list[object] = []  # or an id could be given twice
    waiting = deque(roots)
    while waiting:
        thing = waiting.popleft()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        keep.append(thing)
        yield thing
        waiting.extend(_inside(thing))


def _inside(thing: Any) -> Iterator[object]:
    match thing:
        case Mapping():
            yield from cast("Mapping[object, object]", thing).keys()
            yield from cast("Mapping[object, object]", thing).values()
        case list() | tuple() | set() | frozenset() | deque():
            yield from cast("Iterable[object]", thing)
        case types.MethodType():
            yield from (thing.__self__, thing.__func__)
        case types.FunctionType():
            yield from (cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))
            yield thing.__defaults__
        case partial():
            yield from (thing.func, thing.args, thing.keywords)
        case _ if type(thing).__module__.startswith("avault_"):
            yield from attributes(thing)
        case _:
            pass


def _filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def attributes(thing: object) -> Iterator[object]:
    """Yield the values of all attributes of *thing*, in its dictionary or in slots."""
    yield from getattr(thing, "__dict__", {}).values()
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in [slots] if isinstance(slots, str) else slots:
            mangled = f"_{kind.__name__.lstrip('_')}{slot}" if slot.startswith("__") else slot
            if hasattr(thing, mangled):
                yield getattr(thing, mangled)


def living(package: str = "avault_daemon") -> list[object]:
    """Return every object there is, anywhere in this process, that the garbage collector knows and *package* made."""
    return [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith(package)]
