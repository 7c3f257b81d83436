"""The vault: `vault` and `door` are what it does, `states` when, `opening`, `draft`, `copies` and `catalog` how, `seal` its
key at work, `logfile` and `eventlog` its file, which knows nothing of secrets."""

from .catalog import SlotInfo as SlotInfo
from .copies import Reseal as Reseal
from .seal import Opened as Opened, SecretInfo as SecretInfo
from .vault import Vault as Vault
