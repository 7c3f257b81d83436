"""One table: code, exception, exit status."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, strategies as st

import avault_protocol
from avault_protocol import (
    ERRORS,
    WRONG_USE,
    AvaultError,
    InternalError,
    LockedError,
    NotFoundError,
    error_from_wire,
)


def all_errors(kind: type[AvaultError] = AvaultError) -> set[type[AvaultError]]:
    """Return every exception below *kind*."""
    return {below for child in kind.__subclasses__() for below in {child, *all_errors(child)}}


def test_code_and_exception_are_a_bijection() -> None:
    ours = {error for error in all_errors() if error.__module__.startswith("avault_protocol")}
    assert set(ERRORS.values()) == ours
    assert len(ERRORS) == len(ours)
    assert all(error.code == code for code, error in ERRORS.items())


def test_every_error_is_public_and_says_that_it_is_one() -> None:
    for error in ERRORS.values():
        assert getattr(avault_protocol, error.__name__) is error
        assert error.__name__.endswith("Error")
        assert inspect.getdoc(error)


def test_exit_statuses_tell_what_to_do_and_wrong_use_is_none_of_them() -> None:
    assert {error.exit_status for error in ERRORS.values()} == {1, 3, 4, 5, 6, 7, 8}
    assert WRONG_USE not in {error.exit_status for error in ERRORS.values()}


@pytest.mark.parametrize("error", ERRORS.values())
def test_texts_are_lower_case_without_a_final_period(error: type[AvaultError]) -> None:
    for text in (error.default_message, error.default_hint or "x"):
        assert text
        assert text[0].islower()
        assert not text.endswith(".")
        assert text.isprintable()


@pytest.mark.parametrize("error", ERRORS.values())
def test_there_and_back(error: type[AvaultError]) -> None:
    for sent in (error(), error("what is wrong"), error("what is wrong", hint="what to do")):
        received = error_from_wire(sent.to_wire())
        assert type(received) is error
        assert (received.message, received.hint) == (sent.message, sent.hint)
        assert str(received) == sent.message


def test_no_hint_is_no_key() -> None:
    assert NotFoundError("no agent cobot").to_wire() == {"code": "not_found", "message": "no agent cobot"}


@pytest.mark.parametrize("wire", [None, 1, "locked", [], ["locked"]])
def test_no_map(wire: object) -> None:
    assert type(error_from_wire(wire)) is InternalError


@pytest.mark.parametrize("code", [None, 1, "", "LOCKED", ["locked"], "x" * 1000])
def test_an_unknown_code_is_internal_and_named(code: object) -> None:
    error = error_from_wire({"code": code, "message": "m", "hint": "h"})
    assert type(error) is InternalError
    assert ascii(code)[:40] in error.message
    assert error.hint == "h"
    assert len(error.message) < 100


def test_texts_of_another_type_are_left_out() -> None:
    error = error_from_wire({"code": "locked", "message": 1, "hint": ["x"]})
    assert (error.message, error.hint) == (LockedError.default_message, LockedError.default_hint)


@given(
    st.dictionaries(
        st.sampled_from(["code", "message", "hint", "other"]), st.none() | st.text() | st.integers()
    )
)
def test_any_map_is_some_error(wire: dict[str, object]) -> None:
    assert type(error_from_wire(wire)) in ERRORS.values()
