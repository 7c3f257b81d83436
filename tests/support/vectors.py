"""The published test vectors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[1] / "vectors"


def load_json(name: str) -> Any:
    """Return what tests/vectors/NAME holds."""
    return json.loads((_HERE / name).read_text())


def load_csv(name: str) -> list[dict[str, str]]:
    """Return the rows of tests/vectors/NAME."""
    with open(_HERE / name, newline="") as file:
        return list(csv.DictReader(file))
