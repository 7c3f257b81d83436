"""The only module that imports msgpack, which ships no types: strict in both directions."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from ._errors import BadRequestError
from .limits import MAX_ELEMENTS, MAX_HEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_msgpack: Any = msgpack


def _map(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def pack(message: object) -> bytes:
    """Return *message* as MessagePack."""
    packed: bytes = _msgpack.packb(message, use_bin_type=True, unicode_errors="strict")
    return packed


def unpack(head: bytes | bytearray) -> Any:
    """Return what *head* says; raise `BadRequestError` unless it is one object without bin or extension types.

    Strings must be UTF-8, keys strings, and no key may be there twice.
    """
    try:
        return _msgpack.unpackb(
            head,
            raw=False,
            use_list=True,
            unicode_errors="strict",
            strict_map_key=True,
            object_pairs_hook=_map,
            max_str_len=MAX_HEAD,
            max_bin_len=0,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
        )
    except ValueError:
        # Not chained: msgpack's errors may hold the bytes themselves.
        raise BadRequestError("not one well-formed MessagePack object") from None
