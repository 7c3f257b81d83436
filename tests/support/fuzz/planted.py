"""Bugs that we could have made: a line of ours changed in memory, each in the reader that a target is for.

Whoever fuzzes and finds nothing has shown something only if these are found, too.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple, cast

from avault_client.cli import envfile
from avault_daemon import settings
from avault_daemon.callers import bindings, gate, policy
from avault_daemon.nostr import nip44
from avault_daemon.serving import standing
from avault_daemon.vault import door, draft, eventlog
from avault_protocol import _frame, _scan  # pyright: ignore[reportPrivateUsage]  # that is where they are


class Bug(NamedTuple):
    """In *place*, ``function`` or ``Class.method`` of *module*, *right* stands once, and *wrong* is put for it."""

    what: str
    target: str
    module: Any
    place: str
    right: str
    wrong: str


BUGS = (
    Bug("a value may stand before others", "scanner", _scan, "Scanner.scan", "and left == 1 and", "and"),
    Bug("a value may stand deeper", "scanner", _scan, "Scanner.scan", "outer == [0, 0]", "not any(outer)"),
    Bug("a head may be a byte longer", "scanner", _scan, "Scanner.scan", "start + self._max_head", "start + self._max_head + 1"),
    Bug("a frame may be a byte longer", "decoder", _frame, "Decoder.__init__", "max_head=max_frame", "max_head=max_frame + 1"),
    Bug("a value is passed over", "decoder", _frame, "Decoder.next_message", "if extent.has_value:", "if False:"),
    Bug("a line may come again", "event-log", eventlog, "_Reading.take", "created_at <= self", "created_at < self"),
    Bug("a commit need not be signed", "event-log", eventlog, "_Reading._close", " or not _genuine(match)", ""),
    Bug("a commit may close other lines", "event-log", eventlog, "_Reading._close", "self._digest.hexdigest() != content[2].decode()", "False"),
    Bug("a generation may be left out", "event-log", eventlog, "_Reading._follows", "generation == self", "generation > self"),
    Bug("a key is whoever's", "event-log", eventlog, "_Reading._check_key", "elif self.public != public:", "elif False:"),
    Bug("the padding may be of any length", "nip-44", nip44, "_unpad", "size != start + padded_length(length)", "size < start + length"),
    Bug("a short text may have a long prefix", "nip-44", nip44, "_unpad", "if length < LONG:", "if False:"),
    Bug("the MAC is not compared", "nip-44", nip44, "Conversation.decrypt", "not sodium.memcmp(keys + _MAC, mac, MAC)", "False"),
    Bug("bits beyond the end are ignored", "nip-44", nip44, "_strict_base64", "payload[-4:] not in (end, end.decode())", "False"),
    Bug("true is a number", "settings", settings, "_check", "type(value) is not int", "not isinstance(value, int)"),
    Bug("an unknown key is passed over", "settings", settings, "_check", "raise BadRequestError(f\"{name}: unknown key{shown}\", hint=_nearest(key))", "return"),
    Bug("a number may be one more", "settings", settings, "_check", "value not in rule:  # True", "value not in [*rule, rule.stop]:  # True"),
    Bug("single quotes have C's escapes", "env-file", envfile, "_Reader.quoted", "_ESCAPES[quote]", "_ESCAPES['\"']"),
    Bug("quotes may be followed by anything", "env-file", envfile, "_Reader.quoted", "if not self.skip(_REST):", "if False:"),
    Bug("a comment is part of a value", "env-file", envfile, "_Reader.bare", '_COMMENT.sub("", text, count=1)', "text"),
    Bug("lines are miscounted", "env-file", envfile, "_Reader.skip", 'match[0].count("\\n")', 'bool(match[0].count("\\n"))'),
    Bug("what was granted stays so", "daemon", gate, "Gate.granted", "session.snapshot is not policy", "not session.readable"),
    Bug("an old value stays open", "daemon", door, "Door._publish", "self._cache.clear()", "pass"),
    Bug("a use is not on record", "daemon", gate, "Gate.get", "self._record.append(", "(lambda *_, **__: None)("),
    Bug("what was given once is given for good", "daemon", gate, "Gate.again", "not value.kept", "False"),
    Bug("what begins as before is as before", "daemon", standing, "Standing.find", "data[START:]", "next((q for q in self._answers if q[:18] == data[3:21]), b'')"),
    Bug("a removal is never written", "daemon", draft, "Draft.remove_secret", "self.compact = True", "pass"),
    Bug("a revocation takes nothing", "daemon", policy, "Agent.without_grants", "if s not in gone", "if s"),
    Bug("a plugin is held by several", "daemon", bindings, "Bindings.bind", "len(holders) >= instances", "len(holders) > instances"),
    Bug("a restart forgets who holds what", "daemon", bindings, "Bindings.__init__", "self._restore()", "pass"),
)  # fmt: skip


@contextmanager
def planted(bug: Bug) -> Generator[None]:
    """Have *bug* in this process for as long as the block lasts."""
    *of, name = bug.place.split(".")
    owner = getattr(bug.module, of[0]) if of else bug.module
    function = owner.__dict__[name]
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(bug.right) == 1, f"{bug.place} has changed: plant the bug anew"
    made: dict[str, Any] = {}
    source = f"from __future__ import annotations\n{source.replace(bug.right, bug.wrong)}"
    exec(source, bug.module.__dict__, made)
    before = cast("FunctionType", function)
    setattr(owner, name, made[name])
    try:
        yield
    finally:
        setattr(owner, name, before)
