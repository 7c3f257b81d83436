"""Addresses: of relays, of a proxy, and the two URIs by which NIP-46 pairs, ``bunker://`` and ``nostrconnect://``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from avault_protocol import BadRequestError

MAX_RELAYS = 8
MAX_URI = 4096
"""Characters, our own limit; a QR code holds fewer."""
MAX_SECRET = 256

_KEY = re.compile("[0-9a-f]{64}")
_PROXY = re.compile(r"[0-9A-Za-z._:\[\]-]{1,300}")
_PRINTABLE = re.compile("[!-~]+")
# Amber splits a nostrconnect URI at these after decoding it, and so at those inside of a value.
_SPLITTING = re.compile("[?&=#%+]")


@dataclass(frozen=True, slots=True)
class Bunker:
    """What a ``bunker://`` URI says. *signer*: 32 bytes, x only. The secret is for one pairing."""

    signer: bytes
    relays: tuple[str, ...]
    secret: str | None

    def __repr__(self) -> str:
        return f"<Bunker {self.signer.hex()[:16]} on {', '.join(self.relays)}>"


def parse_bunker(uri: str, *, allow_plain: Collection[str] = ()) -> Bunker:
    """Read a ``bunker://`` URI; *allow_plain* as for `check_relay`.

    Raises BadRequestError that says what is wrong, and never quotes the secret.
    """
    parts = _split(uri, "bunker")
    if not _KEY.fullmatch(parts.netloc) or parts.path not in ("", "/") or parts.fragment:
        raise BadRequestError("a bunker URI starts with bunker:// and 64 lower-case hex digits")
    query = _query(parts)
    relays = [check_relay(value, allow_plain=allow_plain) for name, value in query if name == "relay"]
    secrets = [value for name, value in query if name == "secret"]
    if len(secrets) > 1 or any(not 0 < len(secret) <= MAX_SECRET for secret in secrets):
        raise BadRequestError(f"a bunker URI has at most one secret, of 1 to {MAX_SECRET} characters")
    return Bunker(bytes.fromhex(parts.netloc), check_relays(relays), secrets[0] if secrets else None)


def nostrconnect_uri(client: bytes, relays: Sequence[str], secret: str, host: str) -> str:
    """Return the URI that a signer scans: our key, where we listen, and what it has to say.

    No ``perms``: what is asked for there is granted for ever by some signers. Raises BadRequestError for a relay that
    some signers would not read.
    """
    for relay in check_relays(relays):
        if _SPLITTING.search(relay):
            raise BadRequestError(
                f"{relay}: no relay for pairing: some signers stumble over ? & = # % + in it"
            )
    fields = [*(("relay", relay) for relay in relays), ("secret", secret), ("name", client_name(host))]
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields)
    return f"nostrconnect://{client.hex()}?{query}"


def client_name(host: str) -> str:
    """Return the name by which signers show this client."""
    return f"avault {safe_host(host)}"


def safe_host(host: str) -> str:
    """Return *host* as it may stand in a URI and on a phone's screen: one short word."""
    return re.sub("[^A-Za-z0-9._-]+", "-", host)[:64] or "host"


def check_relays(relays: Sequence[str]) -> tuple[str, ...]:
    """Return the relays, each once; BadRequestError unless there are 1 to 8."""
    once = tuple(dict.fromkeys(relays))
    if not 1 <= len(once) <= MAX_RELAYS:
        raise BadRequestError(f"{len(once)} relays, not 1 to {MAX_RELAYS}")
    return once


def check_relay(url: str, *, allow_plain: Collection[str] = ()) -> str:
    """Return *url* if it is a relay's: wss, or ws to loopback or to a host in *allow_plain* (in lower case).

    Raises BadRequestError. Without TLS anybody on the way reads who talks to which signer, and may withhold it.
    """
    parts = _split(url, "wss", "ws")
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BadRequestError(f"{url}: no relay: its port is no number up to 65535") from None
    if not host or "@" in parts.netloc or parts.fragment:
        raise BadRequestError(f"{url}: no relay: wss://HOST[:PORT][/PATH] is one")
    if parts.scheme == "ws" and not _is_loopback(host) and host not in allow_plain:
        raise BadRequestError(
            f"{url}: ws:// is for this machine only",
            hint="use wss://, or name the host in plain_relays in the settings",
        )
    return url


def parse_proxy(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address stands in brackets. BadRequestError if it is something else."""
    try:
        parts = urlsplit(f"//{address}")
        if parts.hostname and parts.port and parts.netloc == address and _PROXY.fullmatch(address):
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise BadRequestError("not a proxy's address, HOST:PORT")


def is_web_address(text: str) -> bool:
    """Report whether *text* is an address that may be shown to the operator: http or https, printable ASCII."""
    try:
        parts = _split(text, "http", "https")
        return bool(parts.hostname) and "@" not in parts.netloc
    except (BadRequestError, ValueError):
        return False


def _split(uri: str, *schemes: str) -> SplitResult:
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    if len(uri) > MAX_URI or not _PRINTABLE.fullmatch(uri):
        raise BadRequestError(f"a URI is at most {MAX_URI} characters, printable ASCII without spaces")
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise BadRequestError(f"malformed URI, not {wanted}") from None
    if parts.scheme not in schemes or not uri[len(parts.scheme) :].startswith("://"):
        raise BadRequestError(f"the URI does not start with {wanted}")
    return parts


def _query(parts: SplitResult) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            parts.query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=64
        )
    except ValueError:
        raise BadRequestError("malformed bunker URI: what follows the ? is no list of NAME=VALUE") from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
