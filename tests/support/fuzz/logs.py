"""Target: the log of a vault, lines and commits right and wrong, against a reader written from docs/vault-format.md."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from coincurve import PublicKeyXOnly
from hypothesis import strategies as st

from avault_daemon.nostr.event import Event
from avault_daemon.vault.eventlog import COMMIT, KIND, NOTHING, Line, Log
from avault_protocol import CorruptError
from support.logs import AGENT, SECRET, SLOT, Writer

from .target import Target

Step = tuple[Any, ...]
WRITER, OTHER = Writer(), Writer()
_D = re.compile(r"slot/[a-z0-9][a-z0-9_-]{0,63}|agent/[a-z0-9][a-z0-9_-]{0,63}|[0-9a-f]{32}|commit")
_COMMIT = re.compile(
    r'\{"generation":([1-9][0-9]*),"digest":"([0-9a-f]{64})"(,"compacted_from":"[0-9a-f]{64}")?\}'
)


class Taken(NamedTuple):
    """What a reader takes a log for: the lines of whole transactions, the last generation, and where that ends."""

    lines: list[tuple[str, int, str]]
    generation: int
    end: int


# --- the second reader ----------------------------------------------------------------------------------------------


def judged(data: bytes, *, strict: bool) -> Taken | None:
    """Return what docs/vault-format.md makes of *data*, which ends with a newline; None if it must be refused.

    Unless *strict*, what a commit covers need not be signed itself.
    """
    try:
        return _judge(data, strict)
    except (AssertionError, ValueError, KeyError, TypeError):
        return None


def _judge(data: bytes, strict: bool) -> Taken:
    key: str | None = None
    newest: dict[str, int] = {}
    lines: list[tuple[str, int, str]] = []
    opened: list[tuple[str, int, str]] = []
    unsigned: list[bytes] = []
    digest, generation, end, position = hashlib.sha256(NOTHING), 0, 0, 0
    for raw in data.split(b"\n")[:-1]:
        position += len(raw) + 1
        event = _event(raw)
        d, created_at = event["tags"][0][1], event["created_at"]
        key = key or event["pubkey"]
        assert event["pubkey"] == key
        assert created_at > newest.get(d, 0)
        newest[d] = created_at
        if strict or d == COMMIT:
            assert _is_genuine(event)
        if d != COMMIT:
            unsigned.append(raw)
            opened.append((d, created_at, event["content"]))
            digest.update(raw + b"\n")
            continue
        found = _COMMIT.fullmatch(event["content"])
        assert found is not None
        assert opened
        assert digest.hexdigest() == found[2]
        first = not generation
        assert (found[3] is not None) == (first and int(found[1]) > 1)
        assert first or int(found[1]) == generation + 1
        generation, end, lines, opened = int(found[1]), position, lines + opened, []
        unsigned = []
        digest = hashlib.sha256(bytes.fromhex(event["id"]))
    assert lines
    assert all(_is_genuine(_event(raw)) for raw in unsigned)
    return Taken(lines, generation, end)


def _event(raw: bytes) -> dict[str, Any]:
    """Return the event of one line; raise if it is none, or in another form than the one."""
    event: dict[str, Any] = json.loads(raw.decode())
    assert list(event) == ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]
    assert type(event["created_at"]) is int
    assert 1 <= event["created_at"] < 10**15
    assert type(event["kind"]) is int
    assert event["kind"] == KIND
    assert event["tags"] == [["d", event["tags"][0][1]]]
    assert _D.fullmatch(event["tags"][0][1])
    assert raw.decode() == _dumps(event)  # this also finds spaces, escapes, and fields that are there twice
    assert re.fullmatch("[0-9a-f]{64} [0-9a-f]{64} [0-9a-f]{128}", "{id} {pubkey} {sig}".format_map(event))
    return event


def _is_genuine(event: dict[str, Any]) -> bool:
    """Report whether id and signature are those of NIP-01 and BIP-340."""
    serialized = [0, *(event[field] for field in ("pubkey", "created_at", "kind", "tags", "content"))]
    digest = hashlib.sha256(_dumps(serialized).encode()).digest()
    key = PublicKeyXOnly(bytes.fromhex(event["pubkey"]))
    return event["id"] == digest.hex() and bool(key.verify(bytes.fromhex(event["sig"]), digest))


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- ours -----------------------------------------------------------------------------------------------------------


def read(data: bytes, *, strict: bool) -> Taken | None:
    """Return what our reader makes of *data*; None if it refuses it."""
    try:
        log = Log(data, strict=strict)
        head = log.chain.head
    except CorruptError:
        return None
    assert head is not None
    return Taken([(line.d, line.created_at, line.text) for line in log.lines], head.generation, log.end)


def _check(steps: list[Step]) -> None:
    data = _Author().write(steps)
    for strict in (True, False):
        assert read(data, strict=strict) == judged(data, strict=strict)
    for raw in data.splitlines(keepends=True):
        _check_line(raw)


def _check_line(raw: bytes) -> None:
    """A line in the one form is one that the general reader of events takes, too."""
    try:
        line = Line.of(raw)
    except CorruptError:
        return
    event = json.loads(raw)
    assert (line.d, line.created_at, line.text) == (
        event["tags"][0][1],
        event["created_at"],
        event["content"],
    )
    why = ""
    try:
        Event.parse(raw[:-1])
    except CorruptError as error:
        why = error.message
    assert not why or "signature" in why or "id" in why, why


# --- cases ----------------------------------------------------------------------------------------------------------


class _Author:
    """Writes a log by the steps of a case, each of which is right, or wrong in one way."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.newest: dict[str, int] = {}
        self.opened = b""
        self.last = NOTHING
        self.generation = 0

    def write(self, steps: list[Step]) -> bytes:
        for kind, *detail in steps:
            getattr(self, f"_{kind}")(*detail)
        return b"".join(self.lines)

    def _add(self, d: str, content: str, passed: int, how: str) -> bytes:
        created_at = self.newest.get(d, 1_700_000_000) + passed
        self.newest[d] = max(created_at, self.newest.get(d, 0))
        raw = (OTHER if how == "foreign" else WRITER).seal.line(d, created_at, content)
        if how == "unsigned":
            raw = raw[:-131] + b"0" * 128 + raw[-3:]
        self.lines.append(raw)
        return raw

    def _line(self, d: str, content: str, passed: int, how: str) -> None:
        self.opened += self._add(d, content, passed, how)

    def _commit(self, ahead: int, origin: bool, form: str, whole: bool, how: str) -> None:
        digest = hashlib.sha256(self.last + (self.opened if whole else self.opened[1:])).hexdigest()
        generation = self.generation + 1 + ahead
        more = f',"compacted_from":"{"7" * 64}"' if origin else ""
        content = form.replace("G", str(generation)).replace("D", digest).replace("C", more)
        raw = self._add(COMMIT, content, 1, how)
        self.last, self.generation, self.opened = bytes.fromhex(json.loads(raw)["id"]), generation, b""

    def _move(self, source: int, target: int, keep: bool) -> None:
        if self.lines:
            raw = self.lines[source % len(self.lines)]
            if not keep:
                self.lines.remove(raw)
            self.lines.insert(target % (len(self.lines) + 1), raw)

    def _remove(self, index: int) -> None:
        if self.lines:
            del self.lines[index % len(self.lines)]

    def _edit(self, index: int, old: bytes, new: bytes) -> None:
        if self.lines:
            index %= len(self.lines)
            self.lines[index] = self.lines[index].replace(old, new, 1)

    def _flip(self, index: int, offset: int, bit: int) -> None:
        if self.lines:
            index %= len(self.lines)
            line = bytearray(self.lines[index])
            line[offset % (len(line) - 1)] ^= 1 << bit
            self.lines[index] = bytes(line).replace(b"\n", b"").replace(b"\0", b"") + b"\n"


_FORM = '{"generation":G,"digest":"D"C}'
_NUMBER = st.integers(0, 30)
_LINES = st.tuples(
    st.just("line"),
    st.sampled_from((SLOT, AGENT, SECRET, SECRET[::-1])),
    st.sampled_from(("{}", '{"type":"passphrase"}', "A\\B\n\t/", "ä\u2028\U0001f511", "\x7f", "")),
    st.sampled_from((1, 5)),
    st.just(""),
)
_COMMIT_STEP: Step = ("commit", 0, False, _FORM, True, "")
_FORMS = (
    '{"generation":G, "digest":"D"C}', '{"digest":"D","generation":G}', "{}", '{"generation":0G,"digest":"D"C}',
    '{"generation":G,"digest":"D"C,"more":1}', '{"generation":1,"generation":G,"digest":"D"C}',
)  # fmt: skip
_WRONG_COMMITS = st.one_of(
    st.sampled_from((1, -1, 8)).map(lambda ahead: ("commit", ahead, False, _FORM, True, "")),
    st.sampled_from((0, 8)).map(lambda ahead: ("commit", ahead, True, _FORM, True, "")),
    st.sampled_from(_FORMS).map(lambda form: ("commit", 0, False, form, True, "")),
    st.just(("commit", 0, False, _FORM, False, "")),
    st.sampled_from(("foreign", "unsigned")).map(lambda how: ("commit", 0, False, _FORM, True, how)),
)
_WRONG_LINES = st.sampled_from(((0, ""), (-1, ""), (1, "foreign"), (1, "unsigned"))).map(
    lambda wrong: ("line", SECRET, "again", *wrong)
)
_EDITS = (
    (b'"kind":30078', b'"kind":1'), (b'"kind":30078', b'"kind":30078.0'), (b'{"id"', b'{"id":"","id"'),
    (b',"sig"', b',"content":"","sig"'), (b'"tags"', b' "tags"'), (b'"]],', b'","x"]],'), (b"}\n", b',"more":1}\n'),
    (b'"created_at":', b'"created_at":0'), (b"type", b"t\\u0079pe"), (b"/", b"\\/"), (b'"slot/', b'"slat/'),
    (b'"content":"', b'"content":" '), (b'"pubkey":"', b'"pubkey":"0'), (b"}\n", b"}\r\n"), (b"\n", b"\n\n"),
    (b"a", b"A"), (b"\x7f", b"\xff"),
)  # fmt: skip


def _edit(index: int, edit: tuple[bytes, bytes]) -> Step:
    return ("edit", index, *edit)


_MOVES: st.SearchStrategy[Step] = st.tuples(st.just("move"), _NUMBER, _NUMBER, st.booleans())
_REMOVALS: st.SearchStrategy[Step] = st.tuples(st.just("remove"), _NUMBER)
_FLIPS: st.SearchStrategy[Step] = st.tuples(st.just("flip"), _NUMBER, st.integers(0, 900), st.integers(0, 7))
_DAMAGES = _MOVES | _REMOVALS | _FLIPS | st.builds(_edit, _NUMBER, st.sampled_from(_EDITS))


@st.composite
def _cases(draw: st.DrawFn) -> list[Step]:
    """Draw a log in which nothing is wrong, or one thing: a second one would hide whether the first is seen."""
    steps: list[Step] = []
    for lines in draw(st.lists(st.lists(_LINES, min_size=1, max_size=3), min_size=1, max_size=3)):
        steps += [("line", SECRET, "first", 1, ""), *lines, _COMMIT_STEP]
    steps += draw(st.lists(_LINES, max_size=1))
    commits = [index for index, step in enumerate(steps) if step[0] == "commit"]
    match draw(st.sampled_from(("nothing", "line", "line", "commit", "commit", "damage", "damage"))):
        case "line":
            steps.insert(draw(st.integers(1, len(steps) - 1)), draw(_WRONG_LINES))
        case "commit":
            steps[draw(st.sampled_from(commits))] = draw(_WRONG_COMMITS)
        case "damage":
            steps.append(draw(_DAMAGES))
        case _:
            pass
    return steps


EVENT_LOG = Target("event-log", _cases(), _check, 250)
