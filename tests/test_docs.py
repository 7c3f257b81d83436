"""What the documents say, held against what there is."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest

import avault_client
from avault_client.cli import commands
from avault_client.testing import FakeVault
from avault_protocol import ERRORS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SKIPPED = {".venv", ".git", "node_modules"}
PAGES = sorted(page for page in ROOT.rglob("*.md") if not SKIPPED.intersection(page.relative_to(ROOT).parts))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks that are marked as *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


LINES = [
    line.removeprefix("$ avault ")
    for page in PAGES
    for block in blocks(page.read_text(), "console")
    for line in block.splitlines()
    if line.startswith("$ avault ")
]


@pytest.mark.parametrize("line", LINES)
def test_a_command_in_a_document_is_one_that_avault_takes(line: str) -> None:
    command, rest = commands.find(shlex.split(line))
    command.parse(rest)


def test_the_documents_show_every_command() -> None:
    names = {command.name for command in commands.all_commands()}
    assert names == {name for name in names if any(f"{line} ".startswith(f"{name} ") for line in LINES)}


@each_page
def test_links_lead_somewhere_in_this_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text())):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not fragment or fragment in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_no_path_of_the_machine_that_it_was_written_on(page: Path) -> None:
    found = re.findall(r"(?<![\w.~])/(?:work|root|tmp|home|Users)/\S*", page.read_text())
    assert [path for path in found if not path.startswith("/home/ann/")] == []


@each_page
def test_tests_that_are_named_are_there(page: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        assert f"def {name}(" in (ROOT / path).read_text() or not name, f"{path}::{name}"


def tree() -> dict[str, str]:
    """Return path and remark of each line in the README's tree of folders."""
    [block] = [block for block in blocks(README, "text") if block.startswith("protocol/ ")]
    paths: dict[str, str] = {}
    parents: list[str] = []
    for line in block.splitlines():
        name, remark = line.split(None, 1)
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name.rstrip("/")]
        paths["/".join(parents)] = remark
    return paths


def folders(parent: Path) -> set[str]:
    """Return the folders in *parent* that hold something of ours."""
    return {
        folder.name
        for folder in parent.iterdir()
        if folder.is_dir() and folder.name[0] not in "._" and holds_something(folder)
    }


def holds_something(folder: Path) -> bool:
    files = (file for file in folder.rglob("*") if file.is_file())
    return any(file.name[0] != "." and file.suffix != ".pyc" for file in files)


def test_the_tree_shows_what_is_there() -> None:
    for path in tree():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("parent", [".", "daemon/avault_daemon", "client/avault_client", "docs"])
def test_the_tree_shows_every_folder(parent: str) -> None:
    shown = {Path(path).name for path in tree() if str(Path(path).parent) == parent}
    assert folders(ROOT / parent) <= shown


def test_the_exit_statuses_are_those_of_the_errors() -> None:
    [table] = re.findall(r"^\| status \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    rows = {int(row[0]): row[1] for row in re.findall(r"^\| (\d) \| (.*) \|$", table, re.MULTILINE)}
    for code, error in ERRORS.items():
        if error.exit_status not in (1, 4):  # told by kind, not one by one
            assert f"`{code}`" in rows[error.exit_status]
    assert rows.keys() == {0, 2, *(error.exit_status for error in ERRORS.values())}


def test_the_example_does_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = [block for block in blocks(README, "python") if block.startswith('"""cobot.py')]
    values = {"TELEGRAM_BOT_TOKEN": "7250119083:AAF-not-a-real-token", "WEATHER_API_KEY": "wx_not_a_real_key"}
    outputs = re.findall(r"^\$ python cobot\.py\n(.+\n.+\n)", README, re.MULTILINE)
    for granted, lock in ((["TELEGRAM_BOT_TOKEN"], False), (list(values), False), (list(values), True)):
        vaults: list[FakeVault] = []
        monkeypatch.setattr(avault_client, "Vault", partial(fake, values, granted, lock, vaults))
        exec(compile(example, "cobot.py", "exec"), {})
        assert capsys.readouterr().out == outputs.pop(0)
        assert {vault.plugin for vault in vaults} == {"telegram", "weather"}
    assert outputs == []


def fake(
    values: dict[str, str],
    granted: list[str],
    lock: bool,
    vaults: list[FakeVault],
    *,
    agent: str,
    plugin: str,
    secrets: list[str],
) -> FakeVault:
    assert agent == "cobot"
    vault = FakeVault(values, plugin=plugin, secrets=secrets, granted=granted)
    if lock:
        vault.lock()
    vaults.append(vault)
    return vault
