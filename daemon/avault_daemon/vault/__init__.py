"""The vault: `vault`, `ways` and `door` are what it does, `states` when, `opening`, `draft`, `copies` and `catalog` how, `seal`
its key at work, `cache` what it has opened, `logfile` and `eventlog` its file, which knows nothing of secrets."""

from .cache import Value as Value
from .catalog import SlotInfo as SlotInfo
from .copies import Reseal as Reseal
from .seal import SecretInfo as SecretInfo
from .vault import Vault as Vault
