"""uris: which relays and bunkers are taken, and what a nostrconnect URI looks like to parsers other than ours."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import nostr_sdk  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given, strategies as st

from avault_daemon.nostr.uris import (
    MAX_RELAYS,
    MAX_SECRET,
    MAX_URI,
    check_relay,
    check_relays,
    client_name,
    is_web_address,
    nostrconnect_uri,
    parse_bunker,
)
from avault_protocol import BadRequestError

KEY = "f" * 63 + "1"
RELAY = "wss%3A%2F%2Frelay.example.org"


@pytest.mark.parametrize(
    "url",
    [
        "wss://relay.example.org", "wss://relay.example.org/", "wss://relay.example.org:7777/path?x=y", "wss://[::1]",
        "ws://127.0.0.1:7777", "ws://127.9.9.9", "ws://[::1]:7777", "ws://localhost", "WSS://Relay.Example.org",
        "ws://umbrel.local:4848", "ws://UMBREL.local",
    ],
)  # fmt: skip
def test_relays(url: str) -> None:
    assert check_relay(url, allow_plain={"umbrel.local"}) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "relay.example.org", "https://relay.example.org", "ws://relay.example.org", "ws://192.168.1.2", "wss://",
        "wss:relay.example.org", "wss://user@relay.example.org", "wss://relay.example.org#x", "wss://a b", "wss://a\n",
        "wss://a:65536", "wss://a:x", "wss://[::1", "wss://é", "ws://127.0.0.1.example.org", "ws://localhost.example",
        "wss://" + "a" * MAX_URI,
    ],
)  # fmt: skip
def test_no_relays(url: str) -> None:
    with pytest.raises(BadRequestError):
        check_relay(url)


def test_how_many_relays() -> None:
    urls = [f"wss://r{index}" for index in range(MAX_RELAYS + 1)]
    assert check_relays(urls[:-1]) == tuple(urls[:-1])
    assert check_relays([urls[0]] * 9) == (urls[0],)
    for wrong in (urls, []):
        with pytest.raises(BadRequestError, match="1 to 8"):
            check_relays(wrong)


def test_a_bunker() -> None:
    bunker = parse_bunker(f"bunker://{KEY}?relay={RELAY}&relay=ws%3A%2F%2Flocalhost&secret=a%2Bb&perms=x")
    assert bunker.signer.hex() == KEY
    assert bunker.relays == ("wss://relay.example.org", "ws://localhost")
    assert bunker.secret == "a+b"
    assert "a+b" not in repr(bunker)
    assert parse_bunker(f"bunker://{KEY}/?relay=wss://r").secret is None


def test_nostr_sdk_writes_what_is_read() -> None:
    theirs = nostr_sdk.NostrConnectUri.parse(
        f"bunker://{nostr_sdk.Keys.generate().public_key().to_hex()}?relay={RELAY}&secret=abc"
    )
    assert parse_bunker(str(theirs)).secret == "abc"


@pytest.mark.parametrize(
    "uri",
    [
        f"bunker://{KEY}", f"bunker://{KEY}?secret=a", f"bunker://{KEY[1:]}?relay={RELAY}", f"bunker://{KEY}0?relay={RELAY}",
        f"bunker://{KEY.upper()}?relay={RELAY}", f"bunker://npub1x?relay={RELAY}", f"nostrconnect://{KEY}?relay={RELAY}",
        f"bunker:{KEY}?relay={RELAY}", f"bunker://{KEY}/x?relay={RELAY}", f"bunker://{KEY}?relay={RELAY}#x",
        f"bunker://{KEY}?relay={RELAY}&secret=a&secret=b", f"bunker://{KEY}?relay={RELAY}&secret=", f"bunker://{KEY}?relay",
        f"bunker://{KEY}?relay=ws://r.example.org", f"bunker://{KEY}?relay={RELAY}&x=%ff", f" bunker://{KEY}?relay={RELAY}",
        f"bunker://{KEY}?relay={RELAY}&secret={'a' * (MAX_SECRET + 1)}",
        f"bunker://{KEY}?" + "&".join(f"relay=wss://r{index}" for index in range(9)),
    ],
)  # fmt: skip
def test_no_bunkers(uri: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_bunker(uri)
    assert "secret=a" not in str(caught.value)


@given(
    st.text()
    | st.text(f"bunker://?relay=&secret%{KEY}", max_size=200).map(lambda rest: f"bunker://{KEY}?{rest}")
)
def test_rubbish_never_does_more_than_fail(uri: str) -> None:
    try:
        bunker = parse_bunker(uri)
    except BadRequestError:
        return
    assert 1 <= len(bunker.relays) <= MAX_RELAYS


def test_a_nostrconnect_uri() -> None:
    uri = nostrconnect_uri(bytes.fromhex(KEY), ["wss://a.example/x", "wss://b:1"], "cafe" * 8, "my=host&x?é")
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc) == ("nostrconnect", KEY)
    assert parse_qs(parts.query, strict_parsing=True) == {
        "relay": ["wss://a.example/x", "wss://b:1"], "secret": ["cafe" * 8], "name": ["avault my-host-x-"],
    }  # fmt: skip
    assert "perms" not in uri


@given(host=st.text(max_size=80))
def test_what_amber_splits_at_is_in_no_value(host: str) -> None:
    uri = nostrconnect_uri(bytes.fromhex(KEY), ["wss://a.example:7777/x"], "cafe", host)
    # Amber decodes the whole, then splits.
    _, _, query = unquote(uri).partition("?")
    assert [field.partition("=")[0] for field in query.split("&")] == ["relay", "secret", "name"]
    assert len(client_name(host)) <= len("avault ") + 64
    assert uri.isascii()


@pytest.mark.parametrize("relay", ["wss://a/?x=y", "wss://a/%20", "wss://a/+"])
def test_a_relay_that_signers_stumble_over(relay: str) -> None:
    with pytest.raises(BadRequestError, match="stumble"):
        nostrconnect_uri(bytes.fromhex(KEY), [relay], "cafe", "host")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://nsec.app/approve?x=y#z", True), ("http://127.0.0.1:9/approve", True), ("javascript:alert(1)", False),
        ("file:///etc/passwd", False), ("https://a b", False), ("https://a\x1b[31m", False), ("https://", False),
        ("https://bank.example@evil.example", False), ("", False), ("https://a/" + "a" * MAX_URI, False),
        ("https://[::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_shown(text: str, shown: bool) -> None:
    assert is_web_address(text) is shown
