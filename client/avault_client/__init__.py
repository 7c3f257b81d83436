"""Talk to the avault daemon: a plugin's secrets, one at a time, as the operator granted them.

::

    from avault_client import Vault

    with Vault(plugin="telegram", secrets=["TELEGRAM_BOT_TOKEN"]) as vault:
        token = vault.get_secret("TELEGRAM_BOT_TOKEN")
        bot = Bot(token.reveal())

`AsyncVault` (trio, asyncio; ``pip install avault-client[async]``), `Injected` and its error are imported when they are
first asked for.
"""

from avault_protocol import (
    AlreadyBoundError as AlreadyBoundError,
    AmbiguousAgentError as AmbiguousAgentError,
    AuditFailedError as AuditFailedError,
    AvaultError as AvaultError,
    BadRequestError as BadRequestError,
    BusyError as BusyError,
    CorruptError as CorruptError,
    DaemonUnavailableError as DaemonUnavailableError,
    DeniedError as DeniedError,
    InternalError as InternalError,
    LockedError as LockedError,
    NotFoundError as NotFoundError,
    NotGrantedError as NotGrantedError,
    ProofRequiredError as ProofRequiredError,
    RequestTimeoutError as RequestTimeoutError,
    RollbackError as RollbackError,
    StorageFailedError as StorageFailedError,
    ThrottledError as ThrottledError,
    TooLargeError as TooLargeError,
    UninitializedError as UninitializedError,
    UnknownAgentError as UnknownAgentError,
    WrongPassphraseError as WrongPassphraseError,
)

from ._profile import Grants as Grants
from ._secret import Secret as Secret
from ._vault import Vault as Vault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._async import AsyncVault as AsyncVault
    from ._inject import Injected as Injected, UndeclaredSecretError as UndeclaredSecretError
else:  # unseen by type checkers, for which any name at all would be there

    def __getattr__(name: str) -> object:
        if name == "AsyncVault":
            from ._async import AsyncVault

            return AsyncVault
        if name in ("Injected", "UndeclaredSecretError"):
            from . import _inject

            return getattr(_inject, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
