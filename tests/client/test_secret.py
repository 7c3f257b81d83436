"""A secret's value is to be had by `reveal` alone, and is gone after `close`."""

from __future__ import annotations

import copy
import gc
import json
import logging
import pickle
import traceback

import pytest

from avault_client import BadRequestError, Secret
from avault_client._secret import BASE64, TEXT

VALUE = "hunter2-Ünïcode"


def secret(value: bytes = VALUE.encode(), encoding: str = TEXT) -> Secret:
    return Secret("API_KEY", 3, encoding, bytearray(value))


def test_text_comes_back_as_text_and_as_bytes() -> None:
    with secret() as held:
        assert (held.name, held.version, held.encoding) == ("API_KEY", 3, "text")
        assert held.reveal() == VALUE
        assert held.reveal_bytes() == VALUE.encode()


def test_bytes_come_back_as_bytes_and_are_no_text() -> None:
    with secret(b"AP8Q", BASE64) as held:
        assert held.reveal_bytes() == b"\x00\xff\x10"
        with pytest.raises(TypeError, match="API_KEY is bytes, not text"):
            held.reveal()


def test_nothing_that_prints_it_shows_the_value() -> None:
    with secret() as held:
        texts = [
            repr(held),
            str(held),
            f"{held}",
            f"{held:>30}",
            f"{held!r:.30}",
            "%s" % (held,),  # noqa: UP031
            json.dumps([held], default=str),
        ]
    for text in texts:
        assert "Secret('API_KEY')" in text
        assert "hunter2" not in text


def test_a_log_line_shows_the_name(caplog: pytest.LogCaptureFixture) -> None:
    with secret() as held:
        logging.getLogger("plugin").warning("using %s", held)
    assert caplog.messages == ["using Secret('API_KEY')"]


@pytest.mark.parametrize("refused", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_it_is_neither_pickled_nor_copied_nor_json(refused: object) -> None:
    assert callable(refused)
    with secret() as held, pytest.raises(TypeError) as caught:
        refused(held)
    assert "hunter2" not in str(caught.value)


def test_two_secrets_of_the_same_value_are_not_equal_and_hash_by_identity() -> None:
    with secret() as one, secret() as other:
        assert one != other
        assert one == one  # noqa: PLR0124
        assert len({one, other}) == 2


def test_it_has_no_dictionary_to_look_into() -> None:
    with secret() as held:
        assert not hasattr(held, "__dict__")


def test_close_wipes_and_what_follows_is_an_error() -> None:
    buffer = bytearray(VALUE.encode())
    held = Secret("API_KEY", 1, TEXT, buffer)
    held.close()
    held.close()
    assert buffer == bytes(len(VALUE.encode()))
    for reveal in (held.reveal, held.reveal_bytes):
        with pytest.raises(ValueError, match="API_KEY is closed"):
            reveal()


def test_the_garbage_collector_wipes_what_nobody_closed() -> None:
    buffer = bytearray(b"forgotten")
    held = Secret("API_KEY", 1, TEXT, buffer)
    del held
    gc.collect()
    assert buffer == bytes(9)


def test_leaving_the_block_by_an_exception_wipes_too() -> None:
    buffer = bytearray(b"forgotten")
    with pytest.raises(LookupError), Secret("API_KEY", 1, TEXT, buffer):
        raise LookupError
    assert not any(buffer)


@pytest.mark.parametrize(
    ("encoding", "value"), [(TEXT, b"hunter2\xff"), (BASE64, b"hunter2!"), (BASE64, b"aHVudGVyMg")]
)
def test_a_value_that_is_not_what_it_is_said_to_be_is_an_error_without_the_value(
    encoding: str, value: bytes
) -> None:
    held = secret(value, encoding)
    with pytest.raises(BadRequestError, match="API_KEY") as caught:
        held.reveal() if encoding == TEXT else held.reveal_bytes()
    # A UnicodeDecodeError in the chain would carry the bytes along, and print one of them.
    assert caught.value.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
