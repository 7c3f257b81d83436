"""Log a fault of ours by its kind and its place, never by its text, which may hold what a client sent."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

log = logging.getLogger(__name__)


def log_fault(where: str, error: BaseException) -> None:
    """Log that *error* was met at *where*: its type, and the files and lines that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    log.error("%s: %s at %s", where, type(error).__name__, place)
