"""The daemon's entry point: harden, put the parts together, confine, serve until told to stop."""

from . import confine

# The first statement of the process: from here on no other process of this uid may look into it.
confine.first()

import argparse
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import cast

import trio

from avault_protocol import AvaultError, BusyError

from . import __version__, lock_on, places as place_rules
from .anchor import Anchor
from .audit import Record
from .callers.bindings import Bindings
from .callers.gate import Gate
from .callers.requests import Requests
from .callers.throttle import Throttle
from .core import Core
from .keyring.oskeyring import Keyring
from .keyring.slots import KeyringSlots
from .lock_on.locker import Locker
from .memory import sodium
from .memory.arena import Arena
from .nostr.relay import NETWORK, Network
from .nostr.socks import through
from .nostr.uris import safe_host
from .phone.bell import Bell
from .phone.pairings import Pairings
from .phone.phones import Phones
from .phone.signers import Signers
from .phone.stores import FileStore, KeyringStore
from .places import Places
from .serving.server import Server
from .settings import Settings, reread
from .systemd import journal, units
from .systemd.sockets import Sockets, handed_over
from .systemd.supervisor import Supervisor
from .systemd.unattended import Unattended
from .vault import Vault

log = logging.getLogger("avaultd")

# SIGHUP and SIGQUIT come from the terminal that it was started in, and would end it without a wipe.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    """Run `avaultd`; exit status 0 after one of `STOPPING`, else that of the error that ended it."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the daemon with *arguments*, and return its exit status."""
    options = vars(parser().parse_args(arguments))
    if service := options.pop("print_units"):
        return _print_units(service)
    os.umask(0o077)
    _raise_descriptor_limit()
    status = 0
    try:
        handed = handed_over(os.environ)  # before anything of ours is opened: it is known by its numbers
        logging.basicConfig(handlers=[journal.handler(os.environ)])
        supervisor = Supervisor.of(os.environ)
        read = partial(place_rules.configure, os.environ, **options)
        settings, places = read()
        logging.getLogger().setLevel(settings.log_level.upper())
        places.make()
        places.claim()
        sodium.self_test()
        keyring = Keyring.start() if settings.keyring else Keyring()
        bus = _bus(settings)
        # Now, before the first thread: what comes later is confined with it.
        confinement = confine.confine(
            write=[str(places.home), str(places.state_dir), str(places.runtime_dir)],
            read=[str(place) for place in (places.settings_dir, places.credentials_dir) if place],
            network=settings.network,
        )
        core = assemble(settings, places, confinement, keyring=keyring, bus=bus)
        gc.collect()
        gc.freeze()  # what is there now stays, and nobody waits while the collector goes through it again and again
        trio.run(serve, core, Sockets(handed, supervisor), supervisor, lambda: read()[0])
    except* (AvaultError, OSError) as group:
        status = _report(group)
    return status


def _bus(settings: Settings) -> socket.socket | str | None:
    """Return a connection to the system bus, if the settings need one, or why there is none."""
    if not lock_on.parse(settings.lock_on).needs_bus:
        return None
    from .lock_on import logind  # what it brings is for those who want it

    try:
        return logind.connect(os.environ)
    except logind.BusGoneError as error:
        return str(error)


def _print_units(service: str) -> int:
    try:
        print(json.dumps(units.read(service)))  # noqa: T201
    except AvaultError as error:
        return _report(error)
    return 0


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as may be had: 1,024 are soon used up by the connections of a few uids.

    That soft limit is for programs that use select(2); here there is epoll and poll alone.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _report(error: BaseException) -> int:
    """Say why the daemon does not run; return its exit status."""
    while isinstance(error, BaseExceptionGroup):  # of a nursery
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    if isinstance(error, OSError):
        error = AvaultError(f"{error.filename or 'avaultd'}: {error.strerror or 'input/output error'}")
    assert isinstance(error, AvaultError)  # noqa: S101 - nothing else was caught
    level = "<3>" if journal.leads_to_journal(os.environ) else ""  # sd-daemon(3)
    print(f"{level}avaultd: error: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"{level}avaultd: hint: {error.hint}", file=sys.stderr)  # noqa: T201
    return error.exit_status


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what is left out is looked up in the environment, then by default."""
    parser = argparse.ArgumentParser(prog="avaultd", description="The vault daemon for agents.")
    parser.add_argument("--home", metavar="D", help="directory of the vault")
    parser.add_argument("--state-dir", metavar="D", help="directory of the anchor and the record")
    parser.add_argument("--runtime-dir", metavar="D", help="directory of the sockets")
    parser.add_argument("--config", metavar="F", help="settings file")
    parser.add_argument(
        "--print-units", choices=("user", "system"), help="print the units of systemd as JSON, and end"
    )
    parser.add_argument("--version", action="version", version=f"avaultd {__version__}")
    return parser


def assemble(
    settings: Settings,
    places: Places,
    confinement: str,
    *,
    min_log_n: int = 16,
    network: Network = NETWORK,
    keyring: Keyring | None = None,
    bus: socket.socket | str | None = None,
) -> Core:
    """Open everything that belongs to one daemon.

    A vault that is damaged does not keep the daemon from starting: it serves nothing and says why. Raises
    `AvaultError` for what does: a second daemon, a record that cannot be opened, a directory that cannot be used.
    """
    arena = Arena(settings.arena_mib << 20, settings.memory)
    anchor = Anchor(places.state_dir / "anchor.json")
    vault = _opened(Vault(places.home, places.state_dir, arena, anchor, clock=time.time, min_log_n=min_log_n))
    record = Record(places.state_dir, anchor, clock=time.time, sync=settings.audit_sync)
    requests = Requests(clock=time.time)
    keyring = keyring or Keyring()
    pairing_file = FileStore(places.state_dir / "pairing.json")
    pairings = Pairings(arena, KeyringStore(pairing_file, keyring, f"{places.home}: pairings"))
    phones = Phones(arena, vault, pairings, _signers(settings, arena, network))
    gate = Gate(vault, record, requests, places.service)
    core = Core(
        settings=settings,
        places=places,
        confinement=confinement,
        arena=arena,
        vault=vault,
        record=record,
        requests=requests,
        gate=gate,
        bindings=Bindings(places.bindings),
        throttle=Throttle(time.monotonic),
        phones=phones,
        bell=Bell(vault, phones, record, settings.ask_phone),
        keyring=KeyringSlots(arena, vault, keyring, places.home),
        unattended=Unattended(arena, vault, record, places.credentials_dir),
        locker=Locker(vault, record, gate, places.service, lock_on.parse(settings.lock_on), bus),
    )
    # Before the server's listener: whoever is told of an unlock finds the record ready to sign.
    vault.listeners += [part.follow_vault for part in (core, core.bell, phones, core.locker)]
    return core


def _opened(vault: Vault) -> Vault:
    try:
        vault.open()
    except BusyError:
        raise
    except AvaultError as error:
        log.error("%s; nothing is served; %s", error.message, error.hint)
    return vault


def _signers(settings: Settings, arena: Arena, network: Network) -> Signers:
    return Signers(
        arena,
        safe_host(socket.gethostname()),
        enabled=settings.network,
        plain_hosts=settings.plain_relays,
        network=replace(network, dial=through(settings.socks)) if settings.socks else network,
    )


async def serve(
    core: Core, sockets: Sockets, supervisor: Supervisor, read_settings: Callable[[], Settings]
) -> None:
    """Serve until one of `STOPPING` comes; then wipe, before anything else.

    SIGHUP has the settings read again instead, if there is a service manager: else it is the terminal's.
    """
    heeded = [signum for signum in STOPPING if signal.getsignal(signum) is not signal.SIG_IGN]  # nohup(1)
    with trio.open_signal_receiver(*heeded) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(core.record.run)
            server = Server(core, nursery, sockets)
            server.start()
            nursery.start_soon(core.locker.run)
            nursery.start_soon(wake, core)
            nursery.start_soon(core.phones.settle)
            nursery.start_soon(supervisor.run)
            ask, asked = trio.open_memory_channel[None](1)
            nursery.start_soon(_reload, core, supervisor, read_settings, asked)
            core.vault.listeners.append(partial(_show, core, supervisor))
            _show(core, supervisor)
            supervisor.ready()
            log.info(
                "avaultd %d is ready: %s, %s", os.getpid(), core.vault.state, core.places.operator_socket
            )
            async for signum in signals:
                if signum == signal.SIGHUP and supervisor.present:
                    with suppress(trio.WouldBlock):  # it is about to be done
                        ask.send_nowait(None)
                    continue
                _stop(core, signum)
                supervisor.stopping()
                break
            nursery.cancel_scope.cancel()
    core.close()
    supervisor.close()


async def wake(core: Core) -> None:
    """Unlock if that can be done without anybody; if not, it may be time to ask the phone."""
    await core.unattended.at_start()
    await core.bell.run()


def _show(core: Core, supervisor: Supervisor, *_: object) -> None:
    supervisor.show(core.vault.state, core.vault.count if core.vault.unlocked else 0)


def _stop(core: Core, signum: int) -> None:
    why = f"stopping on {signal.Signals(signum).name}"
    core.locker.lock(why)
    log.info("%s", why)
    core.keyring.keyring.close()  # a thread may wait for it


async def _reload(
    core: Core,
    supervisor: Supervisor,
    read_settings: Callable[[], Settings],
    asked: trio.MemoryReceiveChannel[None],
) -> None:
    """Whenever it is *asked*, take up what settings can be changed in a daemon that runs; connections are kept."""
    async for _ in asked:
        supervisor.reloading()
        try:
            new = await trio.to_thread.run_sync(read_settings, abandon_on_cancel=True)
        except AvaultError as error:
            log.error("the settings are left as they were: %s", error.message)
        else:
            settings, waiting = reread(core.settings, new)
            core.adopt_settings(settings)
            logging.getLogger().setLevel(settings.log_level.upper())
            log.info(
                "the settings were read again%s", f"; for a restart: {', '.join(waiting)}" * bool(waiting)
            )
        supervisor.ready()


if __name__ == "__main__":
    main()
