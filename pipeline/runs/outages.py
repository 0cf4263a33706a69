"""Tell a store that is away or busy, which is a fault, from a wrong name or a missing right."""

import errno
from collections.abc import Iterator
from http import HTTPStatus
from http.client import IncompleteRead

from aiohttp import ClientConnectionError, ClientConnectorDNSError, ClientPayloadError
from botocore.exceptions import ChecksumError, FlexibleChecksumError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.storage import describe

TRANSIENT_STATUSES = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
TRANSIENT_S3_CODES = frozenset(
    {
        "BadDigest", "BandwidthLimitExceeded", "ExpiredToken", "ExpiredTokenException",
        "IncompleteBody", "OperationAborted", "PriorRequestNotComplete", "RequestExpired",
        "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "RequestTimeout",
        "RequestTimeoutException", "RequestTimeTooSkewed", "SlowDown", "ThrottledException",
        "Throttling", "ThrottlingException", "TokenRefreshRequired", "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
"""Whatever the HTTP status: credentials that expired and are being renewed, and what botocore
retries."""
TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
TRANSIENT_ERRORS = (
    TimeoutError, ConnectionError, BotoConnectionError, HTTPClientError, IncompleteRead,
    ChecksumError, FlexibleChecksumError,
)  # fmt: skip


def is_transient(content: bytes | Exception) -> bool:
    """Return whether fetching failed in a way that passes: a store that is busy, away or slow."""
    if isinstance(content, bytes):
        return False
    causes = list(_causes(content))
    if any(isinstance(cause, TRANSIENT_ERRORS) or _is_lost_connection(cause) for cause in causes):
        return True
    if any(s3_code(cause) in TRANSIENT_S3_CODES for cause in causes):
        return True
    for status in (_http_status(cause) for cause in causes):
        if status is not None:
            return status in TRANSIENT_STATUSES or (
                status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
            )
    return any(getattr(cause, "errno", None) in TRANSIENT_ERRNOS for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status in an exception of botocore, aiohttp or Google's driver."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    for name in ("status", "code"):  # in this order: reading aiohttp's code gives a warning
        if isinstance(getattr(error, name, None), int):
            return int(getattr(error, name))
    return None


def s3_code(error: BaseException | None) -> str:
    """Return S3's name for an error, such as "SlowDown"; "" if it has none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether aiohttp lost a connection, or could not connect to a host that exists."""
    return isinstance(error, (ClientConnectionError, ClientPayloadError)) and not isinstance(
        error, ClientConnectorDNSError
    )


def store_error(what: str, error: Exception) -> ContractError | FaultError:
    """Return what to raise when a store fails: a fault if it may work later.

    Args:
        what: the setting or the URI, without secrets, and what cannot be done.
        error: one of STORE_ERRORS, or Arrow's.
    """
    kind = FaultError if is_transient(error) else ContractError
    return kind(f"{what}: {describe(error)}")
