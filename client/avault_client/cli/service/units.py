"""The units, filled in for this installation, and the files that they are to become.

A file begins with two lines of ours: where changes belong, and a digest of what follows. So a unit that nobody edited
is told from one that somebody did.

Sources: systemd.syntax(7), systemd.service(5) on command lines, systemd.unit(5) on specifiers.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from avault_protocol import BadRequestError

PROGRAM = "@bindir@/avaultd"
SYSUSERS = ".conf"
_DIGEST = "# sha256: "
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class File:
    """One file: where it belongs, and what it is to hold."""

    path: Path
    text: str

    def there(self) -> str | None:
        """Return what is there now; None if nothing is."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def state(self) -> str:
        """Return "new", "unchanged", "old" (ours, and nobody edited it) or "edited"."""
        there = self.there()
        if there is None:
            return "new"
        return "unchanged" if there == self.text else "old" if is_ours(there) else "edited"

    def difference(self) -> Iterator[str]:
        """Yield the lines of a diff, from what is there to what is to be."""
        there, here = (self.there() or "").splitlines(), self.text.splitlines()
        return difflib.unified_diff(there, here, f"{self.path}, as it is", "as it would be", lineterm="")

    def write(self) -> None:
        """Put it in place, at once or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.write_text(self.text, encoding="utf-8")
        beside.chmod(0o644)
        beside.replace(self.path)


def shipped(program: str, service: str) -> dict[str, str]:
    """Return the units of *service* that come with the daemon *program*, by name."""
    try:
        done = subprocess.run(  # noqa: S603 - our own daemon
            [program, "--print-units", service], check=False, capture_output=True, timeout=_TIMEOUT
        )
        units = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        units = None
    if not isinstance(units, dict) or not units:
        raise BadRequestError(
            f"{program} does not give its units", hint="install avault-daemon of this version"
        )
    return {str(name): str(text) for name, text in units.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def files(units: Mapping[str, str], program: str, service: str) -> list[File]:
    """Return *units* as files, with *program* for the daemon in them."""
    return [
        File(_path(name, service), _signed(_filled(text, program), name, service))
        for name, text in units.items()
    ]


def _path(name: str, service: str) -> Path:
    if name.endswith(SYSUSERS):
        return Path("/etc/sysusers.d") / f"{name.removesuffix('-sysusers.conf')}.conf"
    return directory(service) / name


def directory(service: str) -> Path:
    """Return where units of *service* that somebody installed lie."""
    if service == "system":
        return Path("/etc/systemd/system")
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "systemd" / "user"


def _filled(text: str, program: str) -> str:
    return text.replace(PROGRAM, quoted(program))


def quoted(path: str) -> str:
    """Return *path* as the first word of a command line in a unit.

    `BadRequestError` for what systemd takes no program from: characters of control, quotes, backslashes, other than UTF-8.
    """
    if not path.isprintable() or set(path) & set(
        "\"'\\"
    ):  # surrogates, of other encodings, are not printable
        raise BadRequestError(
            f"{path!a}: systemd runs no program of such a name", hint="install avault elsewhere"
        )
    return '"' + path.replace("%", "%%") + '"' if set(path) & set(" %;") else path


def _signed(text: str, name: str, service: str) -> str:
    user = "--user " if service == "user" else ""
    belongs = (
        f"systemctl {user}edit {name}" if not name.endswith(SYSUSERS) else "another file beside this one"
    )
    return f"# Written by avault install-service. Your changes belong in a drop-in: {belongs}\n{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return _DIGEST + hashlib.sha256(text.encode()).hexdigest()


def is_ours(text: str) -> bool:
    """Report whether *text* is as `files` made it, for whatever version, and nobody edited it."""
    _, _, rest = text.partition("\n")
    digest, _, body = rest.partition("\n")
    return digest == _digest(body)
