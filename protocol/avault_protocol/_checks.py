"""How the parameters of methods are checked, one function each: given a value and where it stands, it returns the value or
raises `BadRequestError`, which never repeats what was sent.
"""

from __future__ import annotations

from ._errors import BadRequestError
from ._names import check_agent_name, check_secret_name
from ._shapes import is_list
from .limits import MAX_REASON, MAX_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[object, str], object]


def string(value: object, where: str) -> object:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise BadRequestError(f"{where}: not a printable string of 1 to 256 characters")
    return value


def reason(value: object, where: str) -> object:
    if not isinstance(value, str) or len(value) > MAX_REASON or not value.isprintable():
        raise BadRequestError(f"{where}: not a printable string of at most {MAX_REASON} characters")
    return value


def flag(value: object, where: str) -> object:
    if not isinstance(value, bool):
        raise BadRequestError(f"{where}: not true or false")
    return value


def integer(low: int, high: int) -> Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadRequestError(f"{where}: not a whole number from {low} to {high}")
        return value

    return check


uid = integer(0, 2**32 - 2)


def seconds(value: object, where: str) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WAIT:
        raise BadRequestError(f"{where}: not a number of seconds from 0 to {MAX_WAIT:.0f}")
    return value


def secret(value: object, where: str) -> object:
    return check_secret_name(value)


def agent(value: object, where: str) -> object:
    return check_agent_name(value)


def listed(item: Check, most: int) -> Check:
    def check(value: object, where: str) -> object:
        if not is_list(value) or len(value) > most:
            raise BadRequestError(f"{where}: not a list of at most {most}")
        checked = [item(element, where) for element in value]
        if len({str(element) for element in checked}) != len(checked):
            raise BadRequestError(f"{where}: something is named twice")
        return checked

    return check


def unit(value: object, where: str) -> object:
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= 255
        or not value.isascii()
        or not value.isprintable()
    ):
        raise BadRequestError(f"{where}: not the name of a unit")
    if "/" in value or "." not in value:
        raise BadRequestError(f"{where}: not the full name of a unit, such as cobot.service")
    return value


def encoding(value: object, where: str) -> object:
    if value not in ("text", "base64"):
        raise BadRequestError(f"{where}: not text or base64")
    return value


def uri(value: object, where: str) -> object:
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= 4096
        or not (value.isascii() and value.isprintable())
    ):
        raise BadRequestError(f"{where}: not an address of at most 4096 printable ASCII characters")
    return value
