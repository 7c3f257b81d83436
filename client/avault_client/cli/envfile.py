"""Env files: ``NAME=value`` lines, as python-dotenv reads them, without its expansion of variables.

::

    # a comment; blank lines are fine
    export TOKEN=abc#def        # unquoted: up to the end of the line or to white space and a #
    SINGLE='as it is, but \\' and \\\\'
    DOUBLE="\\n, \\t, \\" and the like are what they are in C; may go over
    several lines"              # which end in \n, however those of the file end
    PLAIN='$HOME and ${HOME} stay as they are'

Where programs differ, this follows python-dotenv, with two exceptions: a name without ``=`` is an error, and
``NAME= # text`` is an empty value with a comment, as in a shell.

An error names the line and what is wrong there, never what stands there: it may be a secret.
"""

from __future__ import annotations

import re

from avault_protocol import BadRequestError, is_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_REST = re.compile(r"[ \t\f\v]*(?:\#[^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t\f\v]*(?:export[ \t\f\v]+)?([^=\#\s'\"]+)[ \t\f\v]*=", re.ASCII)
_QUOTED = {
    "'": re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL),
    '"': re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL),
}
_BARE = re.compile(r"[^\n]*")
_SPACE = re.compile(r"[ \t\f\v]*")
_COMMENT = re.compile(r"[ \t\f\v]+\#.*")
_NEWLINE = re.compile(r"\r\n|\r")  # what an agent that opened the file as text would have read as \n
_ESCAPES = {"'": re.compile(r"\\([\\'])"), '"': re.compile(r"\\([\\'\"abfnrtv])")}
_MEANING = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Entry:
    """One line (or several, in quotes) that gives a name a value; *line* counts from 1."""

    __slots__ = ("line", "name", "value")

    def __init__(self, name: str, value: str, line: int) -> None:
        self.name = name
        self.value = value
        self.line = line


def parse(content: bytes | bytearray) -> list[Entry]:
    """Return the entries of an env file in their order, a name twice if it is there twice.

    Raises `BadRequestError` with the number of the first line that is wrong.
    """
    return list(_Reader(_decoded(content)))


def _decoded(content: bytes | bytearray) -> str:
    try:
        return _NEWLINE.sub("\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    raise wrong(line, "is not UTF-8 text")  # outside the handler: the other error holds the content


def wrong(line: int, what: str) -> BadRequestError:
    """Return the error for *line*."""
    return BadRequestError(f"line {line} {what}")


class _Reader:
    """Goes over the text of an env file once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1

    def __iter__(self) -> Iterator[Entry]:
        while self.position < len(self.text):
            if not self.skip(_REST):
                yield self.entry()

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
            self.line += match[0].count("\n")
        return match

    def entry(self) -> Entry:
        line = self.line
        name = self.skip(_NAME)
        if name is None:
            raise wrong(line, "is not of the form NAME=value")
        if not is_secret_name(name[1]):
            raise wrong(line, "begins with something that is no name of a secret")
        space = self.skip(_SPACE)
        quote = self.text[self.position : self.position + 1]
        value = self.quoted(quote, line) if quote in _QUOTED else self.bare(bool(space and space[0]))
        return Entry(name[1], value, line)

    def quoted(self, quote: str, line: int) -> str:
        match = self.skip(_QUOTED[quote])
        if match is None:
            raise wrong(line, f"opens a {quote} that is never closed")
        if not self.skip(_REST):
            raise wrong(self.line, f"has something behind the closing {quote}")
        return _ESCAPES[quote].sub(lambda escape: _MEANING.get(escape[1], escape[1]), match[1])

    def bare(self, after_space: bool) -> str:
        match = self.skip(_BARE)
        text = match[0] if match else ""
        if after_space and text.startswith("#"):
            return ""
        return _COMMENT.sub("", text, count=1).rstrip(" \t\f\v")
