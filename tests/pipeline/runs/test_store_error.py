import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.storage import store_error


def refusal(status: int, code: str) -> OSError:
    """An error of s3fs, as it arises from a server's answer."""
    error = OSError(errno.EIO if status >= 500 else errno.EINVAL, code)
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error.__cause__ = ClientError(response, "GetObject")  # type: ignore[arg-type]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), FaultError),
        (refusal(503, "SlowDown"), FaultError),
        (refusal(400, "ExpiredToken"), FaultError),
        (TimeoutError("timed out"), FaultError),
        (refusal(403, "AccessDenied"), ContractError),
        (refusal(404, "NoSuchBucket"), ContractError),
        (FileNotFoundError("no.parquet"), ContractError),
        (PermissionError("denied"), ContractError),
        (NoCredentialsError(), ContractError),
        (ValueError("unknown scheme"), ContractError),
    ],
)
def test_a_store_that_is_away_is_a_fault_and_a_wrong_name_is_not(error, expected):
    raised = store_error("output.uri: s3://bucket cannot be used", error)
    assert type(raised) is expected
    assert str(raised).startswith("output.uri: s3://bucket cannot be used: ")
    assert "\n" not in str(raised)
