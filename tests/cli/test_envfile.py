"""Env files: the forms that are taken, and errors that never show what is in the file."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from avault_client.cli.envfile import parse
from avault_protocol import BadRequestError

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,20}", fullmatch=True).filter(lambda name: name != "export")
NO_BREAK = st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])
ESCAPED = {
    "\\": "\\\\",
    '"': '\\"',
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def pairs(text: str | bytes) -> list[tuple[str, str]]:
    content = text.encode() if isinstance(text, str) else text
    return [(entry.name, entry.value) for entry in parse(content)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A=b\r\n", "b"),
        ("A=b\r", "b"),
        ("export A=b", "b"),
        ("export\tA=b", "b"),
        ("  A = b  ", "b"),
        ("A=", ""),
        ("A=   ", ""),
        ("A=b c", "b c"),
        ("A=b # c", "b"),
        ("A=b\t# c", "b"),
        ("A=b#c", "b#c"),
        ("A=#c", "#c"),
        ("A=##c #d", "##c"),
        ("A= #c", ""),
        ("A=b=c==", "b=c=="),
        ("A='b'", "b"),
        ("A='b # c' # d", "b # c"),
        ("A='b\\'c\\\\'", "b'c\\"),
        ("A='b\\nc'", "b\\nc"),
        ("A='b\nc'", "b\nc"),
        ('A="b"', "b"),
        ('A="b" # c', "b"),
        ('A="b\\nc\\td\\"e\\\\f"', 'b\nc\td"e\\f'),
        ('A="b\\zc"', "b\\zc"),
        ('A="b\nc\nd"\n', "b\nc\nd"),
        ('A="b\r\nc\rd"', "b\nc\nd"),
        ('A="it\'s"', "it's"),
        ("A='say \"x\"'", 'say "x"'),
        ("A=''", ""),
        ("A=b'c'", "b'c'"),
        ("A=$HOME ${HOME} $(id) `id`", "$HOME ${HOME} $(id) `id`"),
        ('A="${HOME}"', "${HOME}"),
        ("A=ünïcödé", "ünïcödé"),
        ("A=b\\nc", "b\\nc"),
    ],
)
def test_one_entry(text: str, value: str) -> None:
    assert pairs(text) == [("A", value)]


def test_comments_and_blank_lines_are_nothing() -> None:
    assert pairs("") == pairs("\n\n") == pairs("  # c\n\t\n#d") == []
    assert pairs("# c\nA=b\n\n  # c\nB=c") == [("A", "b"), ("B", "c")]


def test_a_byte_order_mark_is_nothing() -> None:
    assert pairs(b"\xef\xbb\xbfA=b") == [("A", "b")]


def test_names_may_have_dots_and_dashes_and_come_twice() -> None:
    assert pairs("a.b-c_D=1\na.b-c_D=2") == [("a.b-c_D", "1"), ("a.b-c_D", "2")]


def test_an_entry_knows_its_line() -> None:
    text = 'A=b\r\n\r\nB="x\r\ny\r\n"\rC=d\n'
    assert [(entry.name, entry.line) for entry in parse(text.encode())] == [("A", 1), ("B", 3), ("C", 6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"A=b\nhunter2", "line 2 is not of the form NAME=value"),
        (b"A=b\n\nexport hunter2\n", "line 3 is not of the form NAME=value"),
        (b"=hunter2", "line 1 is not of the form NAME=value"),
        (b"hunter2 hunter2=hunter2", "line 1 is not of the form NAME=value"),
        (b"1hunter2=x", "line 1 begins with something that is no name of a secret"),
        (b"hunter2/+=x", "line 1 begins with something that is no name of a secret"),
        (b"h" * 129 + b"=x", "line 1 begins with something that is no name of a secret"),
        (b"A='hunter2\nB=c", "line 1 opens a ' that is never closed"),
        (b'A=b\nB="hunter2\\"\n', 'line 2 opens a " that is never closed'),
        (b"A='a'hunter2", "line 1 has something behind the closing '"),
        (b'A="a\nb" hunter2', 'line 2 has something behind the closing "'),
        (b"A=b\nB=hunter2\xff", "line 2 is not UTF-8 text"),
        ("A=b\n".encode("utf-16"), "line 1 is not UTF-8 text"),
    ],
)
def test_an_error_names_the_line_and_shows_nothing_of_it(text: bytes, message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse(text)
    assert caught.value.message == message
    assert caught.value.__cause__ is caught.value.__context__ is None


@given(names, st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_is_quoted_comes_back(name: str, value: str) -> None:
    double = "".join(ESCAPED.get(c, c) for c in value)
    single = value.replace("\\", "\\\\").replace("'", "\\'")
    assert pairs(f'{name}="{double}"') == [(name, value)]
    assert pairs(f"{name}='{single}'") == [(name, value.replace("\r\n", "\n").replace("\r", "\n"))]


@given(
    st.lists(
        st.tuples(names, st.text(NO_BREAK).map(str.strip).filter(lambda v: not set(v[:1] + " #") & set(v)))
    )
)
def test_whatever_is_plain_comes_back(entries: list[tuple[str, str]]) -> None:
    plain = [(name, value) for name, value in entries if not value.startswith(("'", '"', "\t", "\f", "\v"))]
    plain = [(name, value) for name, value in plain if not set("\t\f\v") & set(value)]
    assert pairs("\n".join(f"{name}={value}" for name, value in plain)) == plain


@given(st.binary(max_size=200) | st.text(alphabet="AB=\"'\\# \n\r\tx$", max_size=60).map(str.encode))
@example(b"A=\\")
@example(b"A='\\")
def test_any_file_is_read_or_is_an_error_that_names_a_line_only(content: bytes) -> None:
    try:
        entries = parse(content)
    except BadRequestError as error:
        number = int(error.message.split()[1])
        lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        assert 1 <= number <= lines
        return
    assert all(entry.name for entry in entries)


def test_long_quotes_take_linear_time() -> None:
    long = "\\" * 200_001 + "x" * 200_000
    assert pairs(f"A='{long}'")[0][0] == "A"
    with pytest.raises(BadRequestError):
        parse(f"A='{long}".encode())
