"""The claim about memory for the services of a real systemd: no copy outside the arena, which is locked; of either kind."""

from __future__ import annotations

import pytest

from support.campaign import GIVEN, report
from support.treasure import Treasure, look
from support.units import Installed

SECRETS = 1_000 if GIVEN else 20


@pytest.mark.parametrize("kind", ["memfd_secret", "mlock"])
def test_no_copy_in_the_service(service: Installed, kind: str) -> None:
    treasure = Treasure(SECRETS, uid=service.uid)
    service.configure(f'log_n = 16\nmemory = "{kind}"\n')
    canaries = "".join(f"Environment={name}={text}\n" for name, text in treasure.canaries.items())
    service.drop_in(f"[Service]\n{canaries}")
    service.connect()
    service.must("init", {"log_n": 16}, treasure.passphrase)
    treasure.fill(service.must)
    home = f"/home/{service.user}/.local/share/avault" if service.user else "/var/lib/avault/vault"
    scanner, pid = treasure.scanner(service.host.path(home)), service.outside
    for name in list(treasure.values)[:100]:
        assert service.desk.call("reveal", {"name": name}) == treasure.values[name]
    whose = "user's service" if service.user else "system's service"
    report(f"{whose}, {kind}, {treasure.sought(scanner)}: {look(pid, scanner, kind)}")
    service.must("lock")
    look(pid, scanner, None)
