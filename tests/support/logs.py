"""Logs of signed lines, written by hand, so that a test can write wrong ones too."""

from __future__ import annotations

from avault_daemon.memory.arena import Arena
from avault_daemon.vault.eventlog import COMMIT, Chain, Log, commit_content
from avault_daemon.vault.seal import Seal

SLOT = "slot/passphrase"
AGENT = "agent/cobot"
SECRET = "0123456789abcdef0123456789abcdef"


class Writer:
    """Writes transactions one behind the other; `data` is the file so far."""

    def __init__(self) -> None:
        self.seal = Seal.generate(Arena(1 << 16))
        self.data = b""
        self.now = 1_700_000_000

    @property
    def chain(self) -> Chain:
        return Log(self.data).chain if self.data else Chain()

    def line(self, d: str, content: str, *, created_at: int | None = None) -> bytes:
        """Return a signed line; its time follows that of the lines before."""
        return self.seal.line(d, created_at or self.chain.time_for(d, self.now), content)

    def close(self, body: bytes, content: str | None = None) -> bytes:
        """Return *body* and a commit of it, or of whatever content."""
        return body + self.line(COMMIT, content or commit_content(self.chain.head, body))

    def compacted(self) -> bytes:
        """Return a file in which all lines so far but the commits follow that one."""
        lines = b"".join(line.raw for line in Log(self.data).lines)
        return lines + self.line(COMMIT, commit_content(None, lines, compacted_from=self.chain.head))

    def write(self, contents: dict[str, str]) -> None:
        """Append a transaction, d -> content."""
        self.data += self.close(b"".join(self.line(d, content) for d, content in contents.items()))


def written() -> Writer:
    """Return a log of three transactions, eight lines."""
    writer = Writer()
    writer.write({SLOT: '{"type":"passphrase"}', SECRET: "AAAA"})
    writer.write({AGENT: '{"selectors":{},"sealed":"BBBB"}', SECRET: "CCCC"})
    writer.write({SECRET: "DDDD"})
    return writer
