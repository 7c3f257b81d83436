"""What the daemon and its clients say to each other: names, limits, errors, methods, messages. No I/O.

SPEC.md beside this package is the normative text.
"""

from . import limits as limits
from ._errors import (
    ERRORS as ERRORS,
    WRONG_USE as WRONG_USE,
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
    error_from_wire as error_from_wire,
)
from ._frame import Decoder as Decoder
from ._messages import (
    MAX_ID as MAX_ID,
    REQUEST_STARTS as REQUEST_STARTS,
    RESPONSE_STARTS as RESPONSE_STARTS,
    START as START,
    Notification as Notification,
    Request as Request,
    Response as Response,
    pack_error as pack_error,
    pack_notification as pack_notification,
    pack_request as pack_request,
    pack_response as pack_response,
    pack_result as pack_result,
    respond as respond,
    unpack_head as unpack_head,
)
from ._methods import (
    AGENT as AGENT,
    LOCKED as LOCKED,
    METHODS as METHODS,
    NOTIFICATIONS as NOTIFICATIONS,
    OPERATOR as OPERATOR,
    SERVE as SERVE,
    STATES as STATES,
    UNINITIALIZED as UNINITIALIZED,
    UNLOCKED as UNLOCKED,
    UNLOCKING as UNLOCKING,
    WAIT as WAIT,
    Field as Field,
    Method as Method,
)
from ._names import (
    check_agent_name as check_agent_name,
    check_secret_name as check_secret_name,
    is_agent_name as is_agent_name,
    is_secret_name as is_secret_name,
)
from ._scan import Extent as Extent, Scanner as Scanner
