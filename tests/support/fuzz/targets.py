"""Every target by its name."""

from __future__ import annotations

from .daemon import DAEMON, Daemon
from .logs import EVENT_LOG
from .messages import DECODER, SCANNER
from .payloads import NIP44
from .target import Target
from .texts import ENV_FILE, SETTINGS

_ALL: tuple[Target | Daemon, ...] = (SCANNER, DECODER, EVENT_LOG, NIP44, SETTINGS, ENV_FILE, DAEMON)
TARGETS = {target.name: target for target in _ALL}
