"""SPEC.md says what the code does: its tables are the code's, and its examples travel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avault_protocol import (
    AGENT,
    ERRORS,
    METHODS,
    NOTIFICATIONS,
    SERVE,
    STATES,
    WAIT,
    Method,
    Notification,
    Request,
    Response,
    Scanner,
    error_from_wire,
    limits,
    pack_error,
    pack_notification,
    pack_request,
    pack_response,
    unpack_head,
)

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text()
LABELS = ("Requires", "Request", "Example request", "Response", "Example response", "Errors")
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def table(first: str) -> list[list[str]]:
    """Return the rows of the table whose head begins with *first*, without the backquotes around cells."""
    rows = SPEC.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def section(method: Method) -> dict[str, str]:
    """Return what stands under each label of the method's section; "" is what comes before."""
    text = SPEC.split(f"\n#### `{method.name}`\n", 1)[1]
    text = re.split(r"\n##+ ", text, maxsplit=1)[0]
    before, *parts = re.split(r"\n\*\*([A-Z][a-z ]+):\*\*", text)
    return {"": before, **dict(zip(parts[::2], parts[1::2], strict=True))}


def example(text: str) -> tuple[list[Any], bytes | None]:
    """Return the message that an example shows, its value apart; where the value was is nothing."""
    message: list[Any] = json.loads(re.sub(r', b("(?:[^"\\]|\\.)*")', r', {"bin": \1}', text))
    match message[-1]:
        case [only, {"bin": str(value)}]:
            return [*message[:-1], [only]], value.encode()
        case _:
            return message, None


def examples(text: str) -> Iterator[str]:
    """Go over the fenced blocks of *text*."""
    return (match.strip() for match in re.findall(r"```\n(.*?)```", text, re.DOTALL))


def receive(head: bytes, value: bytes | None) -> Request | Response | Notification:
    """Return what a receiver makes of a message, once the value is found where it is."""
    wire = head + (value or b"")
    extent = Scanner().scan(wire, 0, len(wire))
    assert extent is not None
    assert extent.has_value == (value is not None)
    assert wire[extent.head_end : extent.end] == (value or b"")
    assert extent.end == len(wire)
    return unpack_head(wire[: extent.head_end], extent.has_value)


def test_every_method_has_its_section_in_the_order_of_the_table() -> None:
    assert re.findall(r"^#### `(\w+)`$", SPEC, re.MULTILINE) == list(METHODS)


@every_method
def test_labels(method: Method) -> None:
    assert tuple(section(method))[1:] == LABELS
    assert all(text.strip() for text in section(method).values())


@every_method
def test_requires(method: Method) -> None:
    text = section(method)["Requires"]
    assert f"`{method.socket}.sock`" in text
    assert (", proof" in text) == (method.proof or method.name == "restore_vault")
    assert ("hello" in text) == (method.socket == AGENT)


@every_method
def test_parameters(method: Method) -> None:
    text = section(method)["Request"]
    assert ("value]`" in text) == method.takes_value
    found = re.findall(r"^- `(\w+)` \((required|optional)\): (.*)$", text, re.MULTILINE)
    fields = method.fields.items()
    assert found == [(key, "required" if f.required else "optional", f.meaning) for key, f in fields]


@every_method
def test_the_example_request_travels_and_passes(method: Method) -> None:
    (text,) = examples(section(method)["Example request"])
    (kind, id, name, params), value = example(text)
    assert (kind, name) == (0, method.name)
    head = pack_request(id, name, params[0], None if value is None else len(value))
    message = receive(head, value)
    assert isinstance(message, Request)
    assert (message.id, message.method, message.params) == (id, name, *params)
    assert message.has_value == method.takes_value
    assert method.check(message.params) == params[0]


@every_method
def test_the_example_response_travels_and_answers(method: Method) -> None:
    (request,) = examples(section(method)["Example request"])
    (text,) = examples(section(method)["Example response"])
    (kind, id, error, result), value = example(text)
    assert (kind, error) == (1, None)
    assert id == example(request)[0][1]
    plain = result if value is None else result[0]
    message = receive(pack_response(id, plain, None if value is None else len(value)), value)
    assert isinstance(message, Response)
    assert (message.id, message.error, message.result) == (id, None, plain)
    assert message.has_value == method.returns_value


@every_method
def test_the_response_describes_every_key_of_its_example(method: Method) -> None:
    described = set(re.findall(r"\w+", section(method)["Response"]))
    assert set(keys(example(next(examples(section(method)["Example response"])))[0])) <= described


def keys(value: object) -> Iterator[str]:
    """Go over the keys of all maps in *value*."""
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield str(key)  # pyright: ignore[reportUnknownArgumentType]
            yield from keys(inner)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from keys(inner)  # pyright: ignore[reportUnknownArgumentType]


@every_method
def test_errors_exist_and_follow_from_the_states(method: Method) -> None:
    codes = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", section(method)["Errors"], flags=re.DOTALL)))
    assert codes <= set(ERRORS)
    implied = {"locked" if what == WAIT else what for what in method.states.values()} - {SERVE}
    if method.proof:
        implied.add("proof_required")
    assert implied <= codes


def test_states() -> None:
    for method, row in zip(METHODS.values(), table("method"), strict=True):
        proof = "yes" if method.proof else "no"
        assert row == [method.name, *(method.states[state] for state in STATES), proof]


def test_errors() -> None:
    expected = [
        [code, error.__name__, str(error.exit_status), error.default_message, error.default_hint or ""]
        for code, error in ERRORS.items()
    ]
    assert table("code") == expected


def test_limits() -> None:
    named = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert [(name, value) for name, value, _ in table("limit")] == [
        (name, f"{value:,}") for name, value in named.items()
    ]
    assert all(meaning for _, _, meaning in table("limit"))


def test_notifications() -> None:
    rows = table("notification | keys")
    assert {name: tuple(re.findall(r"\w+\??", keys)) for name, keys, _ in rows} == NOTIFICATIONS


def test_every_other_example_travels() -> None:
    """Those of notifications and errors, which stand in sections of their own."""
    shown: set[int] = set()
    for text in examples(SPEC.split("\n## 7. ", 1)[1]):
        message, value = example(text)
        assert value is None
        shown.add(message[0])
        if message[0] == 2:
            _, name, (params,) = message
            received = receive(pack_notification(name, params), None)
            assert isinstance(received, Notification)
            assert (received.method, received.params) == (name, params)
            keys = NOTIFICATIONS[name]
            assert [key for key in keys if not key.endswith("?") or key[:-1] in params] == [
                key if key in keys else f"{key}?" for key in params
            ]
        else:
            _, id, error, nothing = message
            received = receive(pack_error(id, error_from_wire(error)), None)
            assert isinstance(received, Response)
            assert received.error is not None
            assert (received.error.to_wire(), nothing) == (error, None)
    assert shown == {1, 2}


def test_the_contents_are_the_sections() -> None:
    contents = re.findall(r"^\d+\. \[(.*)\]\(#(.*)\)$", SPEC, re.MULTILINE)
    sections = re.findall(r"^## (\d+)\. (.*)$", SPEC, re.MULTILINE)
    assert contents == [(title, f"{number}-{title.lower().replace(' ', '-')}") for number, title in sections]
