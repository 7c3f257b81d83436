"""What `import avault_protocol` brings in, and what it shows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import avault_protocol

SOURCES = sorted(Path(avault_protocol.__file__).parent.glob("*.py"))
# The rest of the standard library costs more than this package does.
ALLOWED = {
    "__future__", "_collections", "_datetime", "_operator", "_struct",
    "collections", "datetime", "itertools", "keyword", "math", "operator", "reprlib", "struct",
}  # fmt: skip
LIST = (
    "import sys; before = set(sys.modules); import avault_protocol; print(*sorted(set(sys.modules) - before))"
)


def imported() -> set[str]:
    """Return what a fresh interpreter imports for this package."""
    run = subprocess.run([sys.executable, "-Ic", LIST], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_imports_msgpack_and_next_to_nothing_else() -> None:
    modules = imported()
    ours = {name for name in modules if name.split(".")[0] == "avault_protocol"}
    assert ours == {"avault_protocol"} | {
        f"avault_protocol.{p.stem}" for p in SOURCES if p.stem != "__init__"
    }
    theirs = {name for name in modules - ours if not name.startswith(("msgpack", "cython", "_cython"))}
    assert "msgpack._cmsgpack" in modules, "the slow msgpack"
    assert theirs <= ALLOWED


def test_only_one_module_imports_msgpack() -> None:
    importers = [path.name for path in SOURCES if "import msgpack" in path.read_text()]
    assert importers == ["_msgpack.py"]


def test_no_input_and_no_output() -> None:
    """No module imports anything but its siblings and msgpack, except for type checkers."""
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert [name.name for name in node.names] == ["msgpack"], path.name
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module == "__future__", path.name


def test_the_front_door_is_a_table_of_contents() -> None:
    """Everything in it is imported from within, under its own name."""
    tree = ast.parse((SOURCES[0].parent / "__init__.py").read_text())
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        assert all(name.asname == name.name for name in node.names)
