"""The units as files: filled in, told from edited ones, put in place. Under a real systemd: tests/system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from avault_client.cli import launch
from avault_client.cli.commands import find
from avault_client.cli.service import install, manager, units
from avault_client.cli.service.manager import UNITS
from avault_client.cli.service.units import File
from avault_client.cli.session import Session
from avault_protocol import BadRequestError
from support.daemon import BIN

AVAULTD = str(BIN / "avaultd")


def unquoted(word: str) -> str:
    """Return what systemd makes of the first word of a command line, by systemd.syntax(7) and systemd.unit(5)."""
    if word.startswith('"'):
        assert word.endswith('"')
        word = word[1:-1]
    else:
        assert not set(word) & set(" ;")
    assert not set(word) & set("\"'\\")
    parts = word.split("%%")
    assert not any("%" in part for part in parts), "a specifier"
    return "%".join(parts)


@given(st.text(alphabet="ab/ %$@:;é-_.", max_size=20).map("/".__add__))
def test_any_path_is_read_back_as_it_was(path: str) -> None:
    assert unquoted(units.quoted(path)) == path


def test_a_plain_path_stays_as_it_is() -> None:
    assert units.quoted("/opt/a-vault_1.0/bin/avaultd") == "/opt/a-vault_1.0/bin/avaultd"


ODD = ["/a\nExecStartPre=/bin/evil", "/a\x00", "/a\x1b[2J", "/\udcff", '/a"', "/a'", "/a\\x41"]


@pytest.mark.parametrize("path", ODD)
def test_a_path_that_systemd_does_not_take_is_refused(path: str) -> None:
    with pytest.raises(BadRequestError, match="systemd runs no program of such a name") as caught:
        units.quoted(path)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("service", ["user", "system"])
def test_the_daemons_units_are_filled_in_and_all_there(service: str) -> None:
    found = units.files(units.shipped(AVAULTD, service), "/opt/a b/avaultd", service)
    names = {file.path.name for file in found}
    assert names - {"avault.conf"} == set(UNITS[service])
    assert ("avault.conf" in names) == (service == "system")
    for file in found:
        assert "=@bindir@" not in file.text
        assert units.is_ours(file.text)
    [main] = [file for file in found if file.path.name == UNITS[service][0]]
    assert '\nExecStart="/opt/a b/avaultd" --runtime-dir=' in main.text


def test_where_the_units_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert units.directory("system") == Path("/etc/systemd/system")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert units.directory("user") == tmp_path / "systemd/user"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert units.directory("user") == tmp_path / ".config/systemd/user"


@pytest.mark.parametrize("script", ["exit 1", "echo '[]'", "echo '{}'", "echo nothing"])
def test_a_daemon_without_units_is_named(tmp_path: Path, script: str) -> None:
    program = tmp_path / "avaultd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    with pytest.raises(BadRequestError, match="does not give its units"):
        units.shipped(str(program), "user")


# --- files ------------------------------------------------------------------------------------------------------------


def made(folder: Path, text: str = "[Unit]\n") -> File:
    [file] = units.files({"avault.service": text}, "/opt/avaultd", "user")
    return File(folder / "deep" / file.path.name, file.text)


def test_a_file_knows_how_it_differs(tmp_path: Path) -> None:
    old, new = made(tmp_path, "[Unit]\nDescription=old\n"), made(tmp_path)
    assert new.state() == "new"
    old.write()
    assert (old.state(), new.state()) == ("unchanged", "old")
    new.write()
    assert new.state() == "unchanged"
    assert new.path.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in new.path.parent.iterdir()] == ["avault.service"]
    new.path.write_text(new.text + "Environment=MINE=1\n")
    assert new.state() == "edited"
    assert "-Environment=MINE=1" in list(new.difference())


@given(st.text(max_size=40), st.integers(0, 200), st.characters())
def test_an_edit_anywhere_below_the_header_is_seen(text: str, place: int, extra: str) -> None:
    [file] = units.files({"avault.service": text}, "/opt/avaultd", "user")
    assert units.is_ours(file.text)
    start = file.text.index("\n") + 1
    at = min(start + place, len(file.text))
    assert not units.is_ours(file.text[:at] + extra + file.text[at:])


@pytest.mark.parametrize(
    "text", ["", "\n", "[Unit]\n", "# Written by avault install-service.\n# sha256: ab\n"]
)
def test_a_file_of_somebody_else_is_not_ours(text: str) -> None:
    assert not units.is_ours(text)


# --- what the system service may run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*install.HIDDEN])
def test_a_program_that_the_system_service_does_not_see_is_refused(place: str) -> None:
    with pytest.raises(BadRequestError, match="sees no home directories"):
        install.check_program(f"{place}/ann/bin/avaultd")


def test_a_program_that_others_may_replace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "HIDDEN", ())
    program = tmp_path / "avaultd"
    program.touch()
    tmp_path.chmod(0o777)
    with pytest.raises(BadRequestError, match="others than root may replace"):
        install.check_program(str(program))


def test_what_is_roots_alone_is_taken() -> None:
    install.check_program("/bin/sh")


# --- the command ------------------------------------------------------------------------------------------------------


def run(*words: str) -> object:
    command, rest = find(["install-service", *words])
    return command.run(Session(), command.parse(rest))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(launch, "find_program", lambda: AVAULTD)
    return tmp_path


def test_print_shows_the_units_and_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--user", "--print") is None
    shown = capsys.readouterr().out
    for unit in UNITS["user"]:
        assert f"# {home}/systemd/user/{unit}\n" in shown
    assert f"ExecStart={units.quoted(AVAULTD)} " in shown
    assert list(home.iterdir()) == []


@pytest.mark.skipif(manager.is_here(), reason="systemd runs this machine")
def test_without_systemd_it_says_so(home: Path) -> None:
    with pytest.raises(BadRequestError, match="systemd does not run this machine"):
        run("--user")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("--user", "--system"), ("--linger", "--no-linger"), ("--print", "--remove")]
)
def test_what_excludes_each_other_is_wrong_use(home: Path, words: tuple[str, ...]) -> None:
    from avault_client.cli.grammar import WrongUse

    with pytest.raises(WrongUse, match="either"):
        run(*words)


# --- the manager ------------------------------------------------------------------------------------------------------


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "systemctl") -> None:
    """Let the tool *name* be *script*."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_manager_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path, monkeypatch, "echo first >&2; echo 'Failed to connect to bus' >&2; exit 1")
    with pytest.raises(BadRequestError) as caught:
        manager.tell(manager.words("user", "daemon-reload"))
    assert caught.value.message == "systemctl --user daemon-reload failed: Failed to connect to bus"
    tools(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(BadRequestError, match="failed: status 3"):
        manager.tell(manager.words("system", "daemon-reload"))


def test_a_manager_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadRequestError, match="systemctl daemon-reload: no such file"):
        manager.tell(manager.words("system", "daemon-reload"))
    assert manager.ask(manager.words("user", "is-active", "x")) == ""


@pytest.mark.parametrize(
    ("answer", "starts"), [("enabled", True), ("static", True), ("disabled", False), ("", False)]
)
def test_what_counts_as_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, starts: bool
) -> None:
    tools(tmp_path, monkeypatch, f'[ "$1 $2" = "--user is-enabled" ] && echo {answer}; exit 1')
    assert manager.starts_at_boot("avault.service", "user") is starts
    assert manager.starts_at_boot("avault.service", "system") is False


def test_linger_is_had_or_the_hint_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = manager.user_name()
    [told] = install.linger(wanted=False)
    assert (
        told == f"no linger: it runs only while {name} is logged in; to change that: loginctl enable-linger"
    )
    tools(tmp_path, monkeypatch, f'[ "$*" = "enable-linger {name}" ]', "loginctl")
    assert list(install.linger(wanted=True)) == [f"linger: units of {name} start with the machine"]
    tools(tmp_path, monkeypatch, "echo 'Access denied' >&2; exit 1", "loginctl")
    with pytest.raises(BadRequestError, match="failed: Access denied") as caught:
        list(install.linger(wanted=True))
    assert caught.value.hint == f"as root, run: loginctl enable-linger {name}"


def test_a_process_is_of_the_unit_that_its_cgroup_names(tmp_path: Path) -> None:
    folder = tmp_path / "proc/7"
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text("1:name=systemd:/\n0::/system.slice/avault-system.service\n")
    assert manager.runs(7, "avault-system.service", tmp_path)
    assert not manager.runs(7, "avault.service", tmp_path)
    with pytest.raises(OSError, match="8"):
        manager.runs(8, "avault.service", tmp_path)


def test_the_units_are_json_that_the_daemon_prints(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess

    printed = subprocess.run([AVAULTD, "--print-units", "system"], check=True, capture_output=True).stdout
    assert set(json.loads(printed)) == {*UNITS["system"], "avault-sysusers.conf"}
