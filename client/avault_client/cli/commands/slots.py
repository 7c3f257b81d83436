"""Slots: the ways to unlock the vault."""

from __future__ import annotations

from avault_client.cli.commands.vault import LOG_N, log_n, patience
from avault_client.cli.grammar import PROOF_OR_PHONE, Argument, Command, Option, WrongUse, passphrase_options
from avault_client.cli.output import note, table
from avault_client.cli.passphrases import Source
from avault_protocol import BadRequestError, check_agent_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault_client.cli.grammar import Parsed, Result
    from avault_client.cli.session import Session

NEW = passphrase_options("the new passphrase", "new-")
BUNKER = "BUNKER-URI"
CREDENTIAL = "systemd-credential"
CREDENTIAL_WARNING = (
    "what this gives up: whoever gets this machine's disk together with what decrypts its credentials (its TPM, or"
    " /var/lib/systemd/credential.secret) can open the vault, and so can root at any time"
)
KEYRING_WARNING = (
    "what this gives up: while you are logged in, any program of yours can read the key from the unlocked keyring, and so"
    " open the vault; whoever gets both the keyring's file and its passphrase can, too"
)


def slot_list(session: Session, parsed: Parsed) -> Result:
    """List the slots."""
    return session.call("slots")


def _list_lines(result: Result) -> Iterator[str]:
    rows = [(slot["id"], slot["type"], slot["log_n"] or "") for slot in result["slots"]]
    yield from table(("SLOT", "TYPE", "LOG N"), rows)


def slot_add(session: Session, parsed: Parsed) -> Result:
    """Add a second passphrase, a phone, the keyring of the desktop, or the service manager's credential."""
    if parsed.text("TYPE") == "phone":
        return _add_phone(session, parsed)
    if parsed.text("TYPE") == "keyring":
        note(KEYRING_WARNING)
        return session.call("keyring_add", working="asking the keyring")
    if parsed.text("TYPE") == CREDENTIAL:
        note(CREDENTIAL_WARNING)
        return session.call("credential_add", log_n(parsed), working="adding the slot")
    if parsed.optional(BUNKER):
        raise WrongUse("slot add got more than it takes: a passphrase is never an argument")
    params = {"type": parsed.text("TYPE"), **log_n(parsed)}
    session.prove("slot_add")
    with Source.given(parsed, "new-").read_new("the new slot") as passphrase:
        return session.call("slot_add", params, passphrase.view, working="adding the slot")


def _add_phone(session: Session, parsed: Parsed) -> Result:
    """Pair with a phone: find it, let the operator look at its keys, try it."""
    from avault_client.cli import phone

    bunker, relays = parsed.optional(BUNKER), parsed.texts("relay")
    if bunker and relays:
        raise WrongUse("a bunker:// URI names its relays: --relay is for pairing without one")
    params: dict[str, object] = {**patience(parsed)}
    if bunker:
        params["bunker"] = bunker
    if relays:
        params["relays"] = relays
    found = session.call("phone_pair", params, working="looking for your phone")
    note(f"signer    {phone.npub(found['signer'])}")
    note(f"operator  {phone.npub(found['operator'])}")
    for relay in found["relays"]:
        note(f"relay     {relay}")
    if not parsed.flag("yes") and not phone.confirmed("is this your phone, and your key?"):
        raise BadRequestError("nothing was paired")
    return session.call("phone_confirm", patience(parsed), working="trying your phone")


def _add_lines(result: Result) -> Iterator[str]:
    yield f"added slot {result['slot']}"


def slot_remove(session: Session, parsed: Parsed) -> Result:
    """Remove a slot."""
    slot = check_agent_name(parsed.text("ID"))
    done = session.call("slot_remove", {"slot": slot})
    return {"removed": slot, "left": done["left"]}


def _remove_lines(result: Result) -> Iterator[str]:
    yield f"removed slot {result['removed']}"
    if result["left"]:
        yield "its key is still in the keyring, which could not be reached: look for avault there"
    yield "an old copy of the vault still opens with it: after a leak, also run avault rekey"


def slot_change_passphrase(session: Session, parsed: Parsed) -> Result:
    """Give a slot another passphrase."""
    params: dict[str, object] = dict(log_n(parsed))
    slot = parsed.optional("slot")
    if slot is not None:
        params["slot"] = check_agent_name(slot)
    elif session.phone:
        raise WrongUse("with --phone, name the slot: --slot ID")
    session.prove("change_passphrase")
    with Source.given(parsed, "new-").read_new("the vault from now on") as passphrase:
        return session.call("change_passphrase", params, passphrase.view, working="changing the passphrase")


def _change_lines(result: Result) -> Iterator[str]:
    yield f"changed the passphrase of slot {result['slot']}"
    yield "an old copy of the vault still opens with the old one: after a leak, also run avault rekey"


COMMANDS = (
    Command(
        "slot list",
        "list the ways to unlock the vault",
        slot_list,
        lines=_list_lines,
        example="avault slot list",
    ),
    Command(
        "slot add",
        "add a way to unlock the vault",
        slot_add,
        lines=_add_lines,
        arguments=(
            Argument(
                "TYPE",
                "what the new slot opens with",
                choices=("passphrase", "phone", "keyring", CREDENTIAL),
            ),
            Argument(
                BUNKER, "what the signer on the phone shows; without it, a QR code is shown", optional=True
            ),
        ),
        options=(
            LOG_N,
            Option(
                "relay",
                "meet the phone on this relay; on those of the settings, if left out",
                "URL",
                many=True,
            ),
            Option("timeout", "seconds to find the phone, 180 if left out", "S"),
            Option("yes", "do not ask whether the keys that answered are yours"),
            *PROOF_OR_PHONE,
            *NEW,
        ),
        example="avault slot add phone --relay wss://relay.example.org",
        details="""
A phone is any signer for Nostr that can be asked from afar (NIP-46), such as Amber. avaultd needs network = true in its
settings for it. Each unlock then asks on the phone; what is asked for is one decryption.

A keyring is that of your desktop, unlocked when you log in. avaultd needs keyring = true in its settings for it. Any
program of your login can then open the vault.

A systemd-credential is a passphrase that systemd decrypts for the service, which then unlocks the vault when it starts,
without anybody. Make it, as root, and restart the service:
  head -c 32 /dev/urandom | base64 -w0 | systemd-creds encrypt --name=avault.passphrase - \
    /etc/credstore.encrypted/avault.passphrase
The slot is made for the credential that the service then has.""",
    ),
    Command(
        "slot remove",
        "remove a way to unlock the vault; the last passphrase stays",
        slot_remove,
        lines=_remove_lines,
        arguments=(Argument("ID", "id of the slot (see: avault slot list)"),),
        options=PROOF_OR_PHONE,
        example="avault slot remove passphrase-2",
    ),
    Command(
        "slot change-passphrase",
        "change a passphrase",
        slot_change_passphrase,
        lines=_change_lines,
        options=(
            Option("slot", "of this slot; of the one whose passphrase you give, if left out", "ID"),
            LOG_N,
            *PROOF_OR_PHONE,
            *NEW,
        ),
        example="avault slot change-passphrase",
    ),
)
