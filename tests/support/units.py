"""avault installed on a machine of `host`, by the units of the checkout: as a user's service, or as the system's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .attackers import Outcome, Puppet
from .host import BIN, ROOT, Host
from .services import PASSPHRASE
from .waiting import until

UNITS = ROOT / "systemd"
CONFIG = "log_n = 16\n"


def texts(kind: str) -> dict[str, str]:
    """Return the units of *kind*, "user" or "system", by name, with the place of the programs filled in."""
    folder = UNITS / kind
    return {unit.name: unit.read_text().replace("@bindir@", BIN) for unit in sorted(folder.iterdir())}


def socket_units(kind: str) -> list[str]:
    """Return the names of the socket units of *kind*."""
    return [name for name in texts(kind) if name.endswith(".socket")]


@dataclass(slots=True)
class Installed:
    """One installed service. *user*: whose it is; None: the system's. *desk* is its operator, who is *desk_user*."""

    host: Host
    user: str | None
    name: str
    desk: Puppet
    desk_user: str
    since: float = field(default_factory=time.time)

    @property
    def runtime_dir(self) -> str:
        return "/run/avault" if self.user is None else f"/run/user/{self.host.uid(self.user)}/avault"

    @property
    def config_dir(self) -> str:
        return "/etc/avault" if self.user is None else f"/home/{self.user}/.config/avault"

    @property
    def agent_socket(self) -> str:
        return f"{self.runtime_dir}/agent.sock"

    @property
    def operator_socket(self) -> str:
        return f"{self.runtime_dir}/operator.sock"

    def own_socket(self, agent: str) -> str:
        return f"{self.runtime_dir}/agents/{agent}/agent.sock"

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Ask the manager whose unit it is."""
        whose = [] if self.user is None else ["--user"]
        return self.host.run("systemctl", *whose, *arguments, user=self.user, check=check).stdout

    def show(self, what: str) -> str:
        """Return a property of the service."""
        return self.systemctl("show", self.name, f"--property={what}", "--value").strip()

    @property
    def pid(self) -> int:
        """The daemon's pid inside; 0 if it does not run."""
        return int(self.show("MainPID"))

    @property
    def outside(self) -> int:
        """The daemon's pid out here."""
        return self.host.pid_outside(self.pid)

    def remove(self) -> None:
        """Remove the system's service, with all that it left."""
        # A service that starts again by itself just then wants its sockets, and cancels this.
        stop = partial(self.host.run, "systemctl", "stop", *texts("system"), check=False)
        until(lambda: stop().returncode == 0, "it goes on")
        self.systemctl("reset-failed", *texts("system"), check=False)
        self.host.run(
            *("rm", "-rf", "/var/lib/avault", "/run/avault", "/etc/avault"),
            *(f"/etc/systemd/system/{name}" for name in texts("system")),
            f"/etc/systemd/system/{self.name}.d",
        )
        self.systemctl("daemon-reload")

    def drop_in(self, text: str) -> None:
        """Change the service; takes effect when it starts next."""
        folder = "/etc/systemd/system" if self.user is None else f"/home/{self.user}/.config/systemd/user"
        self.host.write(f"{folder}/{self.name}.d/test.conf", text, self.user)
        self.systemctl("daemon-reload")

    def configure(self, text: str) -> None:
        """Write the settings."""
        self.host.write(f"{self.config_dir}/config.toml", text)
        self.host.run("chown", "-R", self.user or "root", self.config_dir)

    @property
    def uid(self) -> int:
        """Whom the daemon runs as."""
        return self.host.uid(self.user or "avault")

    def sockets(self) -> list[str]:
        """Return the names of its socket units."""
        return self.show("TriggeredBy").split()

    def answers(self) -> int:
        """Connect the operator anew, who must not be refused; return the pid of who answers, who was started for it perhaps."""
        self.connect()
        return int(self.must("status")["pid"])

    def log(self) -> str:
        """Return what the journal has of it."""
        which = [f"--unit={self.name}"] if self.user is None else [f"_UID={self.uid}"]
        self.host.run("journalctl", "--sync")
        since = f"--since=@{self.since}"
        return self.host.run("journalctl", *which, since, "--output=cat", check=False).stdout

    def connect(self) -> None:
        """Connect the operator anew."""
        assert self.desk.connect(self.operator_socket) == "connected"

    def must(
        self, method: str, params: Mapping[str, Any] | None = None, value: str | None = None
    ) -> dict[str, Any]:
        """Ask as the operator; any error fails the test."""
        outcome: Outcome = self.desk.call(method, dict(params or {}), value)
        assert isinstance(outcome, dict), (method, outcome, self.log())
        return outcome

    def make_vault(self, **secrets: str) -> None:
        """Make a vault with *secrets* in it, which is unlocked then."""
        self.connect()
        self.must("init", {"log_n": 16}, PASSPHRASE)
        if secrets:
            self.put(**secrets)

    def unlock(self) -> None:
        """Connect anew, unlock and prove."""
        self.connect()
        self.must("unlock", {}, PASSPHRASE)

    def put(self, **secrets: str) -> None:
        items = [{"name": name, "size": len(value), "encoding": "text"} for name, value in secrets.items()]
        self.must("put", {"items": items, "replace": True}, "".join(secrets.values()))

    def grant(self, who: str, *secrets: str, **selectors: Any) -> None:
        agent, plugin = who.split("/")
        self.must("grant", {"agent": agent, "plugin": plugin, "secrets": list(secrets), **selectors})

    def until_status(self, text: str) -> None:
        """Wait until the manager shows this status."""
        until(lambda: self.show("StatusText") == text, f"{self.show('StatusText')!r} is not {text!r}")


def install_user(host: Host, user: str, config: str = CONFIG) -> Installed:
    """Make *user*, whose manager runs, with avault as their service: its sockets listen, nothing else runs."""
    host.add_user(user)
    host.linger(user)
    for name, text in texts("user").items():
        host.write(f"/home/{user}/.config/systemd/user/{name}", text, user)
    installed = Installed(host, user, "avault.service", host.puppet(user), user)
    installed.configure(config)
    installed.systemctl("daemon-reload")
    installed.systemctl("start", *socket_units("user"))
    return installed


def install_system(host: Host, operator: str, config: str = CONFIG) -> Installed:
    """Make avault the system's service, and user *operator*, who is one of its operators."""
    host.write("/usr/lib/sysusers.d/avault.conf", Path(UNITS / "avault-sysusers.conf").read_text())
    host.run("systemd-sysusers", "avault.conf")
    host.add_user(operator, "--groups", "avault-operators")
    for name, text in texts("system").items():
        host.write(f"/etc/systemd/system/{name}", text)
    groups = [int(host.run("id", "--group", "avault").stdout)]
    installed = Installed(host, None, "avault-system.service", host.puppet(operator, groups=groups), operator)
    installed.configure(config)
    installed.systemctl("daemon-reload")
    installed.systemctl("start", *socket_units("system"))
    return installed
