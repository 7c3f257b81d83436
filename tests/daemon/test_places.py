from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from avault_daemon import places as module
from avault_daemon.places import MODES, Places, configure, make_directory
from avault_protocol import BadRequestError
from support.house import places_in

USER = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1000"}
SYSTEM = {"HOME": "/", "AVAULT_RUNTIME_DIR": "/run/avault"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def find(environ: dict[str, str], **options: str) -> Places:
    return configure(environ, **options)[1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def umask() -> Generator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_the_places_of_a_user_service() -> None:
    places = find(USER)
    assert places == Places(
        home=Path("/home/u/.local/share/avault"),
        state_dir=Path("/home/u/.local/state/avault") / digest("/home/u/.local/share/avault"),
        runtime_dir=Path("/run/user/1000/avault"),
        config=Path("/home/u/.config/avault/config.toml"),
        service="user",
    )
    assert places.agent_socket == Path("/run/user/1000/avault/agent.sock")
    assert places.operator_socket == Path("/run/user/1000/avault/operator.sock")
    assert places.bindings == Path("/run/user/1000/avault/bindings.jsonl")
    assert places.agent_dir("cobot") == Path("/run/user/1000/avault/agents/cobot")
    assert places.agent_socket_of("cobot") == Path("/run/user/1000/avault/agents/cobot/agent.sock")
    assert places.operator_group is None


def test_the_places_of_the_system_service() -> None:
    assert find(SYSTEM) == Places(
        home=Path("/var/lib/avault/vault"),
        state_dir=Path("/var/lib/avault/state"),
        runtime_dir=Path("/run/avault"),
        config=Path("/etc/avault/config.toml"),
        service="system",
    )


def test_the_modes_are_those_of_the_design() -> None:
    assert MODES["user"] == module.Modes(0o700, 0o600, 0o600)
    assert MODES["system"] == module.Modes(0o711, 0o666, 0o660)
    assert (find(USER).modes, find(SYSTEM).modes) == (MODES["user"], MODES["system"])


def test_options_go_before_the_environment_and_that_before_the_defaults(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    environ = USER | {
        "AVAULT_HOME": "/e/home",
        "AVAULT_RUNTIME_DIR": "/e/run",
        "AVAULT_CONFIG": str(tmp_path / "a"),
        "XDG_STATE_HOME": "/e/state",
    }
    places = find(environ)
    assert (places.home, places.runtime_dir, places.config) == (
        Path("/e/home"),
        Path("/e/run"),
        tmp_path / "a",
    )
    assert places.state_dir == Path("/e/state/avault") / digest("/e/home")
    places = find(
        environ, home="/o/home", runtime_dir="/o/run", config=str(tmp_path / "b"), state_dir="/o/state"
    )
    assert (places.home, places.runtime_dir, places.config) == (
        Path("/o/home"),
        Path("/o/run"),
        tmp_path / "b",
    )
    assert places.state_dir == Path("/o/state")


def test_the_usual_folders_of_the_user_are_kept_to_if_they_are_absolute() -> None:
    environ = USER | {"XDG_CONFIG_HOME": "/x/config", "XDG_STATE_HOME": "relative"}
    places = find(environ)
    assert places.config == Path("/x/config/avault/config.toml")
    assert places.state_dir.parent == Path("/home/u/.local/state/avault")


def test_two_vaults_never_meet_in_one_state_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    one, two, link = (find(USER, home=str(tmp_path / name)).state_dir for name in ("one", "two", "link"))
    assert one != two
    assert one == link
    assert find(SYSTEM, home="/elsewhere").state_dir != find(SYSTEM).state_dir


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(USER, home="vault", runtime_dir="run").home == tmp_path / "vault"
    assert find(USER, home="vault", runtime_dir="run").runtime_dir == tmp_path / "run"


@pytest.mark.parametrize(
    "environ", [{"HOME": "/home/u"}, USER | {"XDG_RUNTIME_DIR": ""}, USER | {"XDG_RUNTIME_DIR": "x"}]
)
def test_without_a_runtime_directory_there_is_an_error_and_never_tmp(environ: dict[str, str]) -> None:
    with pytest.raises(BadRequestError, match="XDG_RUNTIME_DIR") as caught:
        find(environ)
    assert "AVAULT_RUNTIME_DIR" in str(caught.value.hint)


def test_without_home_the_user_database_knows() -> None:
    assert find({"XDG_RUNTIME_DIR": "/run/user/0"}).home.is_relative_to(pwd.getpwuid(os.getuid()).pw_dir)


def test_the_settings_may_say_whose_service_it_is(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('service = "system"\nlog_n = 17\n')
    chosen, places = configure(USER, config=str(config))
    assert (chosen.log_n, places.service, places.home) == (17, "system", Path("/var/lib/avault/vault"))
    config.write_text('service = "user"\n')
    assert find(SYSTEM, config=str(config)).service == "user"


def test_a_settings_file_that_was_named_must_exist() -> None:
    with pytest.raises(BadRequestError, match="no such file"):
        find(USER, config="/nonexistent/config.toml")
    with pytest.raises(BadRequestError, match="no such file"):
        find(USER | {"AVAULT_CONFIG": "/nonexistent/config.toml"})


def test_the_operators_group(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "OPERATORS", "root")
    assert find(SYSTEM).operator_group == 0
    monkeypatch.setattr(module, "OPERATORS", "no-such-group")
    assert find(SYSTEM).operator_group is None
    assert "no-such-group" in caplog.text


@pytest.mark.parametrize("service", ["user", "system"])
def test_the_directories_are_made_with_their_modes(tmp_path: Path, service: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'service = "{service}"')
    os.umask(0o077)
    places = find(
        {"HOME": str(tmp_path / "empty")},
        home=str(tmp_path / "a/home"),
        state_dir=str(tmp_path / "b/state"),
        runtime_dir=str(tmp_path / "c/run"),
        config=str(config),
    )
    places.make()
    places.make()
    places.make_agent_dir("cobot")
    assert (mode(places.home), mode(places.state_dir)) == (0o700, 0o700)
    inside = 0o711 if service == "system" else 0o700
    for directory in (places.runtime_dir, places.runtime_dir / "agents", places.agent_dir("cobot")):
        assert mode(directory) == inside
    assert mode(tmp_path / "a") == 0o700


def claim_in_a_process_of_its_own(places: Places) -> subprocess.Popen[str]:
    """Return a process that has claimed *places*, or says why it could not."""
    code = f"""
import sys
from pathlib import Path, PosixPath
from avault_daemon.places import Places
try:
    {places!r}.claim()
except Exception as error:
    print(type(error).__name__, error)
else:
    print("claimed", flush=True)
    sys.stdin.read()
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("shared", ["state_dir", "runtime_dir"])
def test_two_daemons_share_neither_a_record_nor_sockets(tmp_path: Path, shared: str) -> None:
    one, other = (places_in(tmp_path / name) for name in ("one", "other"))
    other = replace(other, **{shared: getattr(one, shared)})
    for places in (one, other):
        places.make()
    with claim_in_a_process_of_its_own(one) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "claimed\n"
        said, _ = claim_in_a_process_of_its_own(other).communicate("")
        assert said == f"BusyError another avaultd uses {getattr(one, shared)}\n"
        first.kill()
    assert claim_in_a_process_of_its_own(other).communicate("")[0] == "claimed\n"


def test_one_directory_may_be_both(tmp_path: Path) -> None:
    places = replace(places_in(tmp_path), state_dir=tmp_path / "run")
    places.make()
    assert claim_in_a_process_of_its_own(places).communicate("")[0] == "claimed\n"


@pytest.mark.parametrize("name", ["..", "a/b", "", "A", "x" * 65])
def test_an_agents_directory_is_named_by_the_grammar(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequestError):
        find(USER, runtime_dir=str(tmp_path)).make_agent_dir(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bits", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_may_write_into_is_refused(tmp_path: Path, bits: int) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    directory.chmod(bits)
    with pytest.raises(BadRequestError, match=f"others may write into it \\(mode {bits:04o}\\)") as caught:
        make_directory(directory, 0o700)
    assert caught.value.hint == f"run: chmod go-w {directory}"


@pytest.mark.parametrize("bits", [0o700, 0o711, 0o755])
def test_one_that_others_may_only_look_into_is_left_as_it_is(tmp_path: Path, bits: int) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    directory.chmod(bits)
    make_directory(directory, 0o700)
    assert mode(directory) == bits


@needs_root
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(BadRequestError, match="belongs to uid 65534, not to 0"):
        make_directory(directory, 0o700)


def test_a_directory_may_be_reached_by_a_link_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to("disk")
    make_directory(tmp_path / "home", 0o700)
    (tmp_path / "disk").chmod(0o777)
    with pytest.raises(BadRequestError, match="others may write"):
        make_directory(tmp_path / "home", 0o700)


@needs_root
def test_and_not_by_a_link_of_somebody_else(tmp_path: Path) -> None:
    """In a directory for all, such as /tmp, somebody lays it out for us to write where they like."""
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to("mine")
    os.lchown(tmp_path / "home", 65534, 65534)
    with pytest.raises(BadRequestError, match="belongs to uid 65534"):
        make_directory(tmp_path / "home", 0o700)


def test_nor_where_anyone_may_put_another_in_its_place(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(BadRequestError, match="anyone may replace home in it"):
        make_directory(parent / "home", 0o700)
    parent.chmod(0o1777)
    make_directory(parent / "home", 0o700)


def make_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [Path.touch, make_broken_link])
def test_what_is_no_directory_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "home")
    with pytest.raises(BadRequestError, match="home: "):
        make_directory(tmp_path / "home", 0o700)
    with pytest.raises(BadRequestError, match="home"):
        make_directory(tmp_path / "home" / "below", 0o700)
