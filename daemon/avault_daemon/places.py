"""Where the daemon keeps things, and who may come there.

| | user service | system service |
|---|---|---|
| home: the vault | ``~/.local/share/avault`` | ``/var/lib/avault/vault`` |
| state: anchor, record | ``~/.local/state/avault/<16 hex digits of the home's path>`` | ``/var/lib/avault/state`` |
| runtime: the sockets | ``$XDG_RUNTIME_DIR/avault`` | ``/run/avault`` |
| settings | ``~/.config/avault/config.toml`` | ``/etc/avault/config.toml`` |

The state lies apart from the vault, by a digest of where the vault is, so that two vaults never meet in it.

Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import logging
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avault_protocol import BadRequestError, BusyError, check_agent_name

from . import settings
from .settings import Settings

_logger = logging.getLogger(__name__)

SYSTEM_RUNTIME = Path("/run/avault")
SYSTEM_HOME = Path("/var/lib/avault/vault")
SYSTEM_STATE = Path("/var/lib/avault/state")
SYSTEM_CONFIG = Path("/etc/avault/config.toml")
OPERATORS = "avault-operators"


@dataclass(frozen=True, slots=True)
class Modes:
    """Who may come in, by mode bits. *directory* goes for the runtime directory and for all in it."""

    directory: int
    agent_socket: int
    operator_socket: int


MODES = {
    "user": Modes(directory=0o700, agent_socket=0o600, operator_socket=0o600),
    # Anyone may pass through the directory and talk to the agents' sockets: there the gate decides.
    "system": Modes(directory=0o711, agent_socket=0o666, operator_socket=0o660),
}


@dataclass(frozen=True, slots=True)
class Places:
    """The places of one daemon, all absolute."""

    home: Path
    state_dir: Path
    runtime_dir: Path
    config: Path
    service: Literal["user", "system"]
    credentials_dir: Path | None = None
    """Where the service manager has put what it gives this daemon; systemd.exec(5)."""

    @property
    def modes(self) -> Modes:
        """The modes of sockets and of the directories that they lie in."""
        return MODES[self.service]

    @property
    def agent_socket(self) -> Path:
        """Where agents connect."""
        return self.runtime_dir / "agent.sock"

    @property
    def operator_socket(self) -> Path:
        """Where the operator connects."""
        return self.runtime_dir / "operator.sock"

    @property
    def credentials_socket(self) -> Path:
        """Where systemd fetches credentials for units. Mode 0600: root, who comes in system units, needs no more."""
        return self.runtime_dir / "credentials.sock"

    @property
    def bindings(self) -> Path:
        """Where it is written which process holds which plugin."""
        return self.runtime_dir / "bindings.jsonl"

    @property
    def settings_dir(self) -> Path | None:
        """The directory of the settings if it is for them alone, by its name; None: it may be somebody's home."""
        return self.config.parent if self.config.parent.name == "avault" else None

    @property
    def operator_group(self) -> int | None:
        """The group that the operator's socket belongs to; None: the daemon's own."""
        if self.service == "user":
            return None
        try:
            return grp.getgrnam(OPERATORS).gr_gid
        except KeyError:
            _logger.warning(
                "there is no group %s: only the daemon's own group may operate the vault", OPERATORS
            )
            return None

    def agent_dir(self, agent: str) -> Path:
        """Return the directory of *agent*'s own socket, which is what a sandbox mounts."""
        return self.runtime_dir / "agents" / check_agent_name(agent)

    def agent_socket_of(self, agent: str) -> Path:
        """Return *agent*'s own socket."""
        return self.agent_dir(agent) / "agent.sock"

    def make_agent_dir(self, agent: str) -> None:
        """Make the directory of *agent*'s own socket."""
        directory = self.agent_dir(agent)
        make_directory(directory.parent, self.modes.directory)
        make_directory(directory, self.modes.directory)

    def make(self) -> None:
        """Make the directories that are missing; `BadRequestError` if one of those that are there is not safe."""
        make_directory(self.home, 0o700)
        make_directory(self.state_dir, 0o700)
        make_directory(self.runtime_dir, self.modes.directory)

    def claim(self) -> None:
        """Keep other daemons away from the record and the sockets until this process ends; `BusyError`.

        (The vault has a lock of its own, since it may be on a disk that other machines see.)
        """
        for directory in {os.path.realpath(self.state_dir), os.path.realpath(self.runtime_dir)}:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(
                    descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # given back by the kernel, and by it alone
            except BlockingIOError:
                os.close(descriptor)
                raise BusyError(
                    f"another avaultd uses {directory}", hint="stop it, or name another directory"
                ) from None


def configure(
    environ: Mapping[str, str],
    *,
    home: str | None = None,
    state_dir: str | None = None,
    runtime_dir: str | None = None,
    config: str | None = None,
) -> tuple[Settings, Places]:
    """Return the settings, and the places that follow from the command's options, *environ* and the settings.

    Options go before the environment (AVAULT_HOME, AVAULT_RUNTIME_DIR, AVAULT_CONFIG), and that before the defaults. A
    settings file that was named must exist. `BadRequestError` if there is no runtime directory, or by `settings.load`.
    """
    runtime = _runtime_dir(environ, runtime_dir)
    guess: Literal["user", "system"] = "system" if runtime == SYSTEM_RUNTIME else "user"
    named = config or environ.get("AVAULT_CONFIG")
    by_default = (
        SYSTEM_CONFIG if guess == "system" else _xdg(environ, "XDG_CONFIG_HOME", ".config") / "config.toml"
    )
    file = _absolute(named) if named else by_default
    chosen = settings.load(file, required=bool(named))
    service = guess if chosen.service == "auto" else chosen.service
    vault = _home(environ, home, service)
    state = _state_dir(environ, state_dir, service, vault)
    given = environ.get("CREDENTIALS_DIRECTORY", "")
    return chosen, Places(vault, state, runtime, file, service, Path(given) if os.path.isabs(given) else None)


def make_directory(path: Path, mode: int) -> None:
    """Make *path* with *mode*, and what is missing above it with 0700; or check what is there.

    What is there must be a directory of this process's uid that nobody else may write into, else `BadRequestError`
    with what to do about it. It may be reached by a symbolic link, if the link is ours or root's: people move their
    vaults to other disks. (Its mode is left alone otherwise; whoever may only look finds files of mode 0600.)
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _mkdir(path, mode)
        if path.is_symlink():
            _check_owner(path, path.lstat(), others=(0,))
        # What is checked is what was opened, not what the name may mean a moment later.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadRequestError(f"{error.filename}: {(error.strerror or 'unusable').lower()}") from error
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    _check_owner(path, status)
    if status.st_mode & 0o022:
        raise BadRequestError(
            f"{path}: others may write into it (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"run: chmod go-w {path}",
        )
    _check_parent(path)


def _mkdir(path: Path, mode: int) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(mode)  # whatever the umask made of it


def _check_owner(path: Path, status: os.stat_result, others: tuple[int, ...] = ()) -> None:
    if status.st_uid not in (os.geteuid(), *others):
        raise BadRequestError(
            f"{path}: belongs to uid {status.st_uid}, not to {os.geteuid()}",
            hint="run avaultd as its owner, or name another directory",
        )


def _check_parent(path: Path) -> None:
    """Refuse a parent in which anyone may put something else in the place of *path* (a sticky one, as /tmp, is fine)."""
    parent = Path(os.path.realpath(path)).parent
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise BadRequestError(
            f"{parent}: anyone may replace {path.name} in it", hint=f"run: chmod o-w {parent}"
        )


def _runtime_dir(environ: Mapping[str, str], option: str | None) -> Path:
    if named := option or environ.get("AVAULT_RUNTIME_DIR"):
        return _absolute(named)
    xdg = environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(xdg):
        # Never /tmp instead: whoever makes the directory there first owns it, and the sockets.
        raise BadRequestError(
            "no place for the sockets: XDG_RUNTIME_DIR is not set",
            hint="log in through systemd, or name a directory of your own: --runtime-dir or AVAULT_RUNTIME_DIR",
        )
    return Path(xdg) / "avault"


def _home(environ: Mapping[str, str], option: str | None, service: str) -> Path:
    if named := option or environ.get("AVAULT_HOME"):
        return _absolute(named)
    return SYSTEM_HOME if service == "system" else _user_home(environ) / ".local" / "share" / "avault"


def _state_dir(environ: Mapping[str, str], option: str | None, service: str, home: Path) -> Path:
    if option:
        return _absolute(option)
    if service == "system" and home == SYSTEM_HOME:
        return SYSTEM_STATE
    digest = hashlib.sha256(os.fsencode(os.path.realpath(home))).hexdigest()
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / digest[:16]


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    base = environ.get(variable, "")
    # The specification: a relative path there is to be ignored.
    return (Path(base) if os.path.isabs(base) else _user_home(environ) / default) / "avault"


def _user_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))
