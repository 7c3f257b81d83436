"""Whether something unpacked is a list or a map, said so that type checkers learn it too."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard


def is_list(value: object) -> TypeGuard[list[object]]:
    """Report whether *value* is a list."""
    return isinstance(value, list)


def is_map(value: object) -> TypeGuard[dict[str, object]]:
    """Report whether *value* is a map; its keys are strings, since nothing else is unpacked."""
    return isinstance(value, dict)
