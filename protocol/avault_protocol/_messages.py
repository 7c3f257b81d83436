"""Requests, responses and notifications: the objects, and their heads on the wire.

A value never passes through here: who sends one sends its bytes behind the head, who receives one finds them by
`Scanner`.
"""

from __future__ import annotations

from ._errors import AvaultError, BadRequestError, TooLargeError, error_from_wire
from ._msgpack import pack, unpack
from ._shapes import is_list, is_map
from .limits import MAX_HEAD, MAX_VALUES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ID = 2**32 - 1
# How a message begins under an id that takes one byte: a list of four, which kind of message it is, the id.
REQUEST_STARTS = tuple(b"\x94\x00" + bytes((id,)) for id in range(128))
RESPONSE_STARTS = tuple(b"\x94\x01" + bytes((id,)) for id in range(128))
START = 3
_NIL = b"\xc0"
_BEFORE_RESULT = 7
"""Bytes of a response before what `pack_result` returns, at most."""


class Request:
    """A call of *method*, to be answered under *id* (0 to 2**32 - 1).

    *params* is what was sent in the place of the map of parameters, for `Method.check` to check; None where there was
    no such place.
    """

    __slots__ = ("has_value", "id", "method", "params")

    def __init__(self, id: int, method: str, params: object, has_value: bool) -> None:
        self.id = id
        self.method = method
        self.params = params
        self.has_value = has_value


class Response:
    """The answer to the request *id*: *error*, or else *result* and, if *has_value*, a value."""

    __slots__ = ("error", "has_value", "id", "result")

    def __init__(
        self, id: int, error: AvaultError | None, result: dict[str, object], has_value: bool
    ) -> None:
        self.id = id
        self.error = error
        self.result = result
        self.has_value = has_value


class Notification:
    """Something that happened, which nobody answers."""

    __slots__ = ("method", "params")

    def __init__(self, method: str, params: dict[str, object]) -> None:
        self.method = method
        self.params = params


def unpack_head(head: bytes | bytearray, has_value: bool) -> Request | Response | Notification:
    """Return the message whose head a `Scanner` has found; raise `BadRequestError` if it is none.

    A request with bad parameters is still a request, so that it can be answered under its id.
    """
    message = _unpack_before_value(head) if has_value else unpack(head)
    if is_list(message) and message and type(message[0]) is int:  # False and true equal 0 and 1
        match message:
            case [0, int(id), str(method), params] if _is_id(id):
                return Request(id, method, _only_map(params, has_value), has_value)
            case [1, int(id), error, result] if _is_id(id):
                return _response(id, error, result, has_value)
            case [2, str(method), params] if not has_value:
                only = _only_map(params, False)
                return Notification(method, only if is_map(only) else {})
            case _:
                pass
    raise BadRequestError("neither a request nor a response nor a notification")


def _unpack_before_value(head: bytes | bytearray) -> object:
    """Return the message with None for its value.

    The header of a bin is 2, 3 or 5 bytes long. Since no MessagePack object begins another, at most one of the three
    readings leaves a complete message.
    """
    for size, lead in ((2, 0xC4), (3, 0xC5), (5, 0xC6)):
        if len(head) > size and head[-size] == lead:
            try:
                return unpack(head[:-size] + _NIL)
            except BadRequestError:
                continue
    raise BadRequestError("a head that ends in no value's header, or is not well formed before it")


def _is_id(id: object) -> bool:
    return type(id) is int and 0 <= id <= MAX_ID


def _only_map(params: object, has_value: bool) -> object:
    """Return the first of ``[map]`` or ``[map, value]``; for ``[]`` an empty map, for anything else None."""
    if not is_list(params) or len(params) > 1 + has_value:
        return None
    return params[0] if params else {}


def _response(id: int, error: object, result: object, has_value: bool) -> Response:
    if error is not None and result is None:
        return Response(id, error_from_wire(error), {}, False)
    only = _only_map(result, True) if has_value else result
    if error is None and is_map(only):
        return Response(id, None, only, has_value)
    raise BadRequestError(f"response {id} is neither an error nor a map")


def pack_request(id: int, method: str, params: Mapping[str, object], value_size: int | None = None) -> bytes:
    """Return a request, up to the header of its value if *value_size* is given: the value's bytes go next.

    This and the other three raise `TooLargeError` for what the receiver would refuse.
    """
    if value_size is None:
        return _checked(pack([0, id, method, [params]]))
    return _checked(_before_value([0, id, method, [params, None]], value_size))


def pack_response(id: int, result: Mapping[str, object], value_size: int | None = None) -> bytes:
    """Return a response, up to the header of its value if *value_size* is given: the value's bytes go next."""
    return _checked(respond(id, _result(result, value_size)))


def pack_result(result: Mapping[str, object], value_size: int | None = None) -> bytes:
    """Return what `respond` makes a response of; it may be used for any number of them."""
    packed = _result(result, value_size)
    _checked(bytes(_BEFORE_RESULT) + packed)
    return packed


def _result(result: Mapping[str, object], value_size: int | None) -> bytes:
    return _NIL + (pack(result) if value_size is None else _before_value([result, None], value_size))


def respond(id: int, result: bytes) -> bytes:
    """Return the response to the request *id*; *result* is what `pack_result` has returned."""
    # An id above 127 is given four bytes, whether it needs them or not.
    return (RESPONSE_STARTS[id] if id < 128 else b"\x94\x01\xce" + id.to_bytes(4, "big")) + result


def pack_error(id: int, error: AvaultError) -> bytes:
    """Return the response that says *error*; *id* is 0 where no request could be read."""
    return _checked(pack([1, id, error.to_wire(), None]))


def pack_notification(method: str, params: Mapping[str, object]) -> bytes:
    """Return a notification."""
    return _checked(pack([2, method, [params]]))


def _before_value(message: object, size: int) -> bytes:
    if size > MAX_VALUES:
        raise TooLargeError(f"a value of {size} bytes; the limit is {MAX_VALUES}")
    lead, width = (0xC4, 1) if size < 1 << 8 else (0xC5, 2) if size < 1 << 16 else (0xC6, 4)
    return pack(message).removesuffix(_NIL) + bytes((lead,)) + size.to_bytes(width, "big")


def _checked(head: bytes) -> bytes:
    if len(head) > MAX_HEAD:
        raise TooLargeError(f"a message of {len(head)} bytes; the limit is {MAX_HEAD}")
    return head
