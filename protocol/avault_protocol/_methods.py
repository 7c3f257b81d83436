"""The vocabulary: every method of both sockets, its parameters, and what it does in each state of the vault.

This table is what the daemon dispatches by, what checks parameters, and what SPEC.md is compared with in a test.
"""

from __future__ import annotations

from . import _checks as checks
from ._errors import BadRequestError
from ._shapes import is_list, is_map
from .limits import MAX_DECLARED, MAX_ITEMS, MAX_VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._checks import Check

AGENT = "agent"
OPERATOR = "operator"

# The states of a vault.
UNINITIALIZED = "uninitialized"
LOCKED = "locked"
UNLOCKING = "unlocking"
UNLOCKED = "unlocked"
STATES = (UNINITIALIZED, LOCKED, UNLOCKING, UNLOCKED)

# What a method does in a state: one of these, or the code of the error it gives.
SERVE = "serve"
WAIT = "wait"  # `locked`, unless the request asked to wait

ALWAYS: dict[str, str] = dict.fromkeys(STATES, SERVE)
WITH_A_VAULT = {**ALWAYS, UNINITIALIZED: "uninitialized"}
UNLOCKED_ONLY = {**WITH_A_VAULT, LOCKED: "locked", UNLOCKING: "locked"}
ON_UNLOCK = {**UNLOCKED_ONLY, LOCKED: WAIT, UNLOCKING: WAIT}
ONCE: dict[str, str] = {
    UNINITIALIZED: SERVE,
    LOCKED: "bad_request",
    UNLOCKING: "bad_request",
    UNLOCKED: "bad_request",
}


class Field:
    """One parameter: how it is checked, and whether it must be there."""

    __slots__ = ("check", "meaning", "required")

    def __init__(self, check: Check, meaning: str, *, required: bool = True) -> None:
        self.check = check
        self.meaning = meaning
        self.required = required


class Method:
    """One method of one socket."""

    __slots__ = ("fields", "name", "proof", "returns_value", "socket", "states", "takes_value")

    def __init__(
        self,
        name: str,
        socket: str,
        states: Mapping[str, str],
        fields: Mapping[str, Field] | None = None,
        *,
        proof: bool = False,
        takes_value: bool = False,
        returns_value: bool = False,
    ) -> None:
        self.name = name
        self.socket = socket
        self.states = states
        self.fields: Mapping[str, Field] = fields or {}
        self.proof = proof
        self.takes_value = takes_value
        self.returns_value = returns_value

    def check(self, params: object) -> dict[str, object]:
        """Return the checked parameters; raise `BadRequestError` naming the first that is wrong, if it is one of ours.

        What was sent is never repeated: it may be a value in the wrong place.
        """
        if not is_map(params):
            raise BadRequestError(f"{self.name}: the parameters are no map")
        for key in params:
            if key not in self.fields:
                known = ", ".join(self.fields) or "none"
                raise BadRequestError(f"{self.name}: unknown parameter", hint=f"the parameters are: {known}")
        checked: dict[str, object] = {}
        for key, field in self.fields.items():
            if key in params:
                checked[key] = field.check(params[key], f"{self.name}: {key}")
            elif field.required:
                raise BadRequestError(f"{self.name}: parameter {key} is missing")
        return checked


_ITEM = {
    "name": Field(checks.secret, "name of the secret"),
    "size": Field(checks.integer(1, MAX_VALUE), "bytes of its value"),
    "encoding": Field(checks.encoding, "text, or base64 (of a value that is not UTF-8)"),
}


def _item(value: object, where: str) -> dict[str, object]:
    if not is_map(value) or value.keys() != _ITEM.keys():
        raise BadRequestError(f"{where}: an item is a map of exactly {', '.join(_ITEM)}")
    return {key: field.check(value[key], f"{where}: {key}") for key, field in _ITEM.items()}


def _items(value: object, where: str) -> object:
    if not is_list(value) or not 0 < len(value) <= MAX_ITEMS:
        raise BadRequestError(f"{where}: not a list of 1 to {MAX_ITEMS} items")
    checked = [_item(element, where) for element in value]
    if len({element["name"] for element in checked}) != len(checked):
        raise BadRequestError(f"{where}: a secret is named twice")
    return checked


_PATIENCE = Field(checks.integer(1, 3600), "seconds that the operator gets; 180 if left out", required=False)
_SELECTORS = {
    "uids": Field(checks.listed(checks.uid, 64), "numeric user ids, any of which fits", required=False),
    "units": Field(checks.listed(checks.unit, 64), "system units, any of which fits", required=False),
    "socket": Field(checks.flag, "whether the agent has a socket of its own", required=False),
}
_LOG_N = Field(checks.integer(1, 22), "scrypt cost, 16 to 22; 18 if left out", required=False)
_NAME = Field(checks.secret, "name of the secret")
_AGENT_NAME = Field(checks.agent, "name of the agent")
_PLUGIN_NAME = Field(checks.agent, "name of the plugin")
_SLOT = Field(checks.agent, "id of the slot")
_NAMES = Field(checks.listed(checks.secret, MAX_DECLARED), "names of secrets")
_IDS = Field(checks.listed(checks.integer(1, 2**63 - 1), 1024), "ids of requests")

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        # --- agent.sock -------------------------------------------------------------------------------------
        Method(
            "hello",
            AGENT,
            WITH_A_VAULT,
            {
                "protocol": Field(checks.integer(1, 2**31), "version of the protocol: 1"),
                "plugin": _PLUGIN_NAME,
                "secrets": Field(
                    checks.listed(checks.secret, MAX_DECLARED), "names that the plugin declares"
                ),
                "agent": Field(checks.agent, "which agent, where several fit", required=False),
            },
        ),
        Method(
            "get_secret",
            AGENT,
            ON_UNLOCK,
            {"name": _NAME, "wait": Field(checks.seconds, "wait so long for an unlock", required=False)},
            returns_value=True,
        ),
        Method(
            "request",
            AGENT,
            WITH_A_VAULT,
            {"name": _NAME, "reason": Field(checks.reason, "why, for the operator", required=False)},
        ),
        Method("grants", AGENT, UNLOCKED_ONLY),
        # --- operator.sock, free ----------------------------------------------------------------------------
        Method("status", OPERATOR, ALWAYS),
        Method("lock", OPERATOR, ALWAYS),
        Method(
            "list",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "after": Field(checks.secret, "only names that sort behind this one", required=False),
                "limit": Field(checks.integer(1, 1000), "at most so many; 1000 if left out", required=False),
            },
        ),
        Method(
            "agents", OPERATOR, WITH_A_VAULT, {"agent": Field(checks.agent, "only this one", required=False)}
        ),
        Method("requests", OPERATOR, ALWAYS),
        Method("history", OPERATOR, UNLOCKED_ONLY, {"name": _NAME}),
        Method("slots", OPERATOR, WITH_A_VAULT),
        Method(
            "audit",
            OPERATOR,
            ALWAYS,
            {
                "since": Field(checks.integer(0, 2**62), "Unix seconds", required=False),
                "after": Field(checks.integer(0, 2**62), "only lines with a higher number", required=False),
                "agent": Field(checks.agent, "only of this agent", required=False),
                "secret": Field(checks.secret, "only of this secret", required=False),
                "limit": Field(
                    checks.integer(1, 1000), "at most so many lines; 1000 if left out", required=False
                ),
            },
        ),
        Method("audit_verify", OPERATOR, ALWAYS),
        # --- operator.sock, a passphrase --------------------------------------------------------------------
        Method("init", OPERATOR, ONCE, {"log_n": _LOG_N}, takes_value=True),
        Method(
            "unlock",
            OPERATOR,
            WITH_A_VAULT,
            {"slot": Field(checks.agent, "only this slot", required=False)},
            takes_value=True,
        ),
        Method(
            "prove",
            OPERATOR,
            WITH_A_VAULT,
            {"slot": Field(checks.agent, "only this slot", required=False)},
            takes_value=True,
        ),
        # --- operator.sock, the operator's phone ------------------------------------------------------------
        Method("phone_unlock", OPERATOR, WITH_A_VAULT, {"timeout": _PATIENCE}),
        Method(
            "phone_prove",
            OPERATOR,
            UNLOCKED_ONLY,
            {"action": Field(checks.string, "the method that is to be allowed once"), "timeout": _PATIENCE},
        ),
        Method(
            "phone_pair",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "bunker": Field(
                    checks.uri, "a bunker:// URI; without it a nostrconnect:// URI is shown", required=False
                ),
                "relays": Field(
                    checks.listed(checks.uri, 8),
                    "relays for nostrconnect://; those of the settings if left out",
                    required=False,
                ),
                "timeout": _PATIENCE,
            },
            proof=True,
        ),
        Method("phone_confirm", OPERATOR, UNLOCKED_ONLY, {"timeout": _PATIENCE}, proof=True),
        # --- operator.sock, the keyring of the desktop ------------------------------------------------------
        Method("keyring_unlock", OPERATOR, WITH_A_VAULT),
        Method("keyring_add", OPERATOR, UNLOCKED_ONLY, proof=True),
        # --- operator.sock, the service manager ------------------------------------------------------------
        Method("credential_add", OPERATOR, UNLOCKED_ONLY, {"log_n": _LOG_N}, proof=True),
        # --- operator.sock, with proof ----------------------------------------------------------------------
        Method(
            "put",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "items": Field(_items, "what the value holds, in its order"),
                "replace": Field(checks.flag, "false: existing names are an error", required=False),
            },
            proof=True,
            takes_value=True,
        ),
        Method(
            "reveal",
            OPERATOR,
            UNLOCKED_ONLY,
            {"name": _NAME, "version": Field(checks.integer(1, 2**31), "an earlier one", required=False)},
            proof=True,
            returns_value=True,
        ),
        Method("rm", OPERATOR, UNLOCKED_ONLY, {"name": _NAME}, proof=True),
        Method(
            "restore",
            OPERATOR,
            UNLOCKED_ONLY,
            {"name": _NAME, "version": Field(checks.integer(1, 2**31), "which becomes the newest")},
            proof=True,
        ),
        Method(
            "agent_set",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "agent": _AGENT_NAME,
                **_SELECTORS,
                "instances": Field(
                    checks.integer(1, 1024), "live processes a plugin may have", required=False
                ),
            },
            proof=True,
        ),
        Method("agent_rm", OPERATOR, UNLOCKED_ONLY, {"agent": _AGENT_NAME}, proof=True),
        Method(
            "grant",
            OPERATOR,
            UNLOCKED_ONLY,
            {"agent": _AGENT_NAME, "plugin": _PLUGIN_NAME, "secrets": _NAMES, **_SELECTORS},
            proof=True,
        ),
        Method(
            "revoke",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "agent": _AGENT_NAME,
                "plugin": Field(checks.agent, "only of this plugin", required=False),
                "secrets": Field(
                    checks.listed(checks.secret, MAX_DECLARED), "only these; all if left out", required=False
                ),
            },
            proof=True,
        ),
        Method(
            "approve",
            OPERATOR,
            UNLOCKED_ONLY,
            {
                "ids": Field(
                    checks.listed(checks.integer(1, 2**63 - 1), 1024), "ids of requests", required=False
                ),
                "all": Field(checks.agent, "all of this agent", required=False),
                "agent": Field(checks.agent, "name for an unknown caller's agent", required=False),
            },
            proof=True,
        ),
        Method("deny", OPERATOR, WITH_A_VAULT, {"ids": _IDS}, proof=True),
        Method(
            "slot_add",
            OPERATOR,
            UNLOCKED_ONLY,
            {"type": Field(checks.string, "passphrase"), "log_n": _LOG_N},
            proof=True,
            takes_value=True,
        ),
        Method("slot_remove", OPERATOR, UNLOCKED_ONLY, {"slot": _SLOT}, proof=True),
        Method(
            "change_passphrase",
            OPERATOR,
            UNLOCKED_ONLY,
            {"slot": Field(checks.agent, "the proven one if left out", required=False), "log_n": _LOG_N},
            proof=True,
            takes_value=True,
        ),
        Method("rekey", OPERATOR, UNLOCKED_ONLY, {"log_n": _LOG_N}, proof=True, takes_value=True),
        Method("export", OPERATOR, UNLOCKED_ONLY, {"log_n": _LOG_N}, proof=True, takes_value=True),
        # With proof for the vault that it replaces, where there is one: the handler checks that.
        Method("restore_vault", OPERATOR, ALWAYS, takes_value=True),
    )
}

# Notifications, daemon to client: name -> keys of its map; those with a question mark may be missing.
NOTIFICATIONS: dict[str, tuple[str, ...]] = {
    "locked": (),
    "unlocked": (),
    "granted": ("name",),
    "rotated": ("name",),
    "progress": ("id", "stage", "text?", "uri?", "relay?", "seconds_left?"),
}
