"""Every limit of the protocol, in one place, each with its reason.

Sizes are bytes, times seconds. A daemon may be started with smaller connection limits, never with larger frames.
"""

PROTOCOL_VERSION = 1

# A NIP-44 payload of 64 KiB is where older Nostr libraries stop; 32 KiB of value, as base64 text with its
# metadata, stays below that, so that any of them can read the vault.
MAX_VALUE = 32 * 1024
# One transaction of `put`: an env file of an ordinary machine has some ten entries; the daemon's whole arena is 4 MiB.
MAX_ITEMS = 1024
MAX_VALUES = 1024 * 1024
# The part of a message that is not a value. Largest: a `list` of some 4,000 secrets, or 1,000 lines of the record.
MAX_HEAD = 1024 * 1024
MAX_FRAME = MAX_HEAD + MAX_VALUES
# An agent never sends a value: its largest message is a hello that declares MAX_DECLARED names.
MAX_AGENT_FRAME = 64 * 1024
# The deepest is the answer to `agents`: [type, id, nil, {agents: [{plugins: [{secrets: [name]}]}]}].
MAX_DEPTH = 7
# What msgpack may make of one head: 4,000 secrets in a `list`, each a map of 7 pairs.
MAX_ELEMENTS = 64 * 1024
# That hello again, of some 270. Anybody may connect: 60,000 of them took 35 ms of the daemon, for which all others waited.
MAX_AGENT_ELEMENTS = 288

MAX_DECLARED = 256
MAX_REASON = 200
MAX_WAIT = 24 * 3600.0
# Requests that a connection has open at one moment (they wait for an unlock): an agent asks for one secret at a time.
MAX_OPEN_REQUESTS = 64
# ssh-agent has no bound, D-Bus allows 256 a uid; an agent has one connection a plugin.
MAX_CONNECTIONS_PER_UID = 256
# From accept to a complete hello.
HELLO_TIMEOUT = 10.0
# A peer that does not take its answer within this time is disconnected.
SEND_TIMEOUT = 10.0
MAX_PASSPHRASE = 1024
MIN_PASSPHRASE = 8
MAX_REQUESTS_PER_AGENT = 32
