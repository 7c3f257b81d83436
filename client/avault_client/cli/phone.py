"""Asking the operator's phone: what is shown meanwhile, and whom it turned out to be."""

from __future__ import annotations

import sys
import threading
import time

from avault_client.cli import terminal
from avault_client.cli.output import Working, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STAGES = {
    "connecting": "connecting to {relay}",
    "connected": "connected to {relay}",
    "sent": "request sent, waiting for you",
    "accepted": "request sent, waiting for you",
    "absent": "your phone does not listen yet: open the signer's app",
    "refused": "{relay} refuses: {text}",
    "lost": "{relay}: {text}; trying again",
    "hopeless": "{relay}: {text}",
    "trying": "one more request: it tries whether your phone opens the vault",
}
WARNINGS = ("skew", "unrenewed")
ADVICE = (
    "when the phone asks what avault may do, let it ask each time (Amber: manually approve each permission, and remember"
    " no answer): what is allowed once and for all, also as a basic action, is no question any more"
)
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class Waiting(Working):
    """The line on the terminal while a phone is asked, with the seconds that are left; addresses stay on the screen.

    *advice* is said once the daemon has begun.
    """

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self._advice = advice
        self._end: float | None = None
        self._done = threading.Event()
        self._drawing = threading.Lock()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        if self._on:
            self._ticker.start()

    def progress(self, told: Mapping[str, object]) -> None:
        """Show what a notification of the daemon tells."""
        left, stage, uri = told.get("seconds_left"), told.get("stage"), told.get("uri")
        with self._drawing:
            self._end = time.monotonic() + left if isinstance(left, int) else None
            self._advise()
            if isinstance(uri, str):
                self._show_address(stage, uri)
            elif stage in WARNINGS:
                self._clear()
                note(f"warning: {told.get('text')}")
            else:
                self._text = described(told)
            self._redraw()

    def _advise(self) -> None:
        if self._advice:
            self._clear()
            note(self._advice)
        self._advice = ""

    def _show_address(self, stage: object, uri: str) -> None:
        self._clear()
        if stage == "scan":
            if self._on:
                _show_code(uri)
            else:
                note("scan this with your phone, or paste it there:")
            note(uri)
            self._text = "waiting for your phone"
        else:
            note("the signer wants you to open this page yourself, if you trust it:")
            note(uri)

    def _tick(self) -> None:
        while not self._done.wait(1):
            with self._drawing:
                if not self._done.is_set():
                    self._redraw()

    def _redraw(self) -> None:
        left = "" if self._end is None else f" ({max(0, round(self._end - time.monotonic()))} s left)"
        self._draw(f"{self._text}{left}")

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        with self._drawing:
            super().__exit__(*exception)


def described(told: Mapping[str, object]) -> str:
    """Return words for a stage; one that is not known stands for itself."""
    words = STAGES.get(str(told.get("stage")), "{stage}")
    return words.format(stage=told.get("stage"), relay=told.get("relay"), text=told.get("text", "no reason"))


def _show_code(uri: str) -> None:
    """Draw *uri* as a QR code, if there is what draws it (the extra ``cli`` of this package)."""
    try:
        import segno  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    segno.make(uri, error="l", micro=False).terminal(out=sys.stderr, compact=True, border=2)


def confirmed(question: str) -> bool:
    """Ask on the controlling terminal; `BadRequestError` if there is none."""
    return terminal.confirmed(question, "if these keys are yours, run it again with --yes")


def npub(public: str) -> str:
    """Return a public key, given in hex, as people know it (NIP-19, bech32 of BIP-173); `ValueError` if it is none."""
    key = bytes.fromhex(public)
    if len(key) != 32:
        raise ValueError("a public key has 32 bytes")
    bits = int.from_bytes(key, "big") << 4  # 52 groups of five
    data = [bits >> 5 * place & 31 for place in reversed(range(52))]
    check = _polymod([*(ord(c) >> 5 for c in "npub"), 0, *(ord(c) & 31 for c in "npub"), *data, *[0] * 6]) ^ 1
    data += [check >> 5 * place & 31 for place in reversed(range(6))]
    return "npub1" + "".join(_CHARSET[value] for value in data)


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATORS):
            check ^= generator if top >> place & 1 else 0
    return check
