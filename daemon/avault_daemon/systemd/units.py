"""The units of systemd that come with the daemon; `avault install-service` fills them in and puts them in place.

They lie beside the packages in a checkout, and in ``share/avault/systemd`` of an installation.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from avault_protocol import InternalError

SHARED = "share/avault/systemd"


def directories() -> Iterator[Path]:
    """Yield where the units may lie."""
    yield Path(__file__).parents[3] / "systemd"
    for scheme in (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")):
        yield Path(sysconfig.get_path("data", scheme)) / SHARED


def read(service: str) -> dict[str, str]:
    """Return the units of *service*, "user" or "system", by name; with the latter, the file of its user, too."""
    for directory in directories():
        if (directory / service).is_dir():
            paths = sorted((directory / service).iterdir())
            extra = sorted(directory.glob("*.conf")) if service == "system" else []
            return {path.name: path.read_text(encoding="utf-8") for path in (*paths, *extra)}
    raise InternalError(
        "this installation has no units", hint="install avault-daemon from its wheel, or from a checkout"
    )
