"""The data contract: columns of manifests and results, and the meaning of each status."""

from collections.abc import Iterable
from enum import StrEnum

import pyarrow as pa


class Status(StrEnum):
    """The outcome of a row: "ok", or the reason why it has no score.

    Attributes:
        OK: scored.
        MISSING: an image does not exist, or the row names no image.
        FORBIDDEN: the store or images.allowed_uri_prefixes refuses access, or the URI is a chain.
        UNREADABLE: an image cannot be fetched, although it is neither missing nor forbidden.
        DECODE_ERROR: the bytes are not an image of a supported format and sample type.
        TOO_LARGE: an image has more bytes than images.max_bytes or more pixels than
            images.max_pixels.
        TOO_SMALL: a side is shorter than images.min_side_px.
        SIZE_MISMATCH: the two sizes differ, by more than images.size_mismatch allows.
        NON_FINITE: a score of the model is not a finite number.
        CRASHED: decoding an image or scoring the pair killed its process, or scoring raised an
            error or did not fit the memory.
        TIMED_OUT: decoding an image took longer than images.max_decode_s.
    """

    OK = "ok"
    MISSING = "missing"
    FORBIDDEN = "forbidden"
    UNREADABLE = "unreadable"
    DECODE_ERROR = "decode_error"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    SIZE_MISMATCH = "size_mismatch"
    NON_FINITE = "non_finite"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"


RETRIED_STATUSES = (
    Status.MISSING, Status.FORBIDDEN, Status.UNREADABLE, Status.DECODE_ERROR, Status.CRASHED,
    Status.TIMED_OUT,
)  # fmt: skip
"""What --retry-failed scores again: a user can fix it where the images are stored, or give a row
more memory or time."""


SCORE_FIELDS = (
    pa.field("spips_score", pa.float32()),
    pa.field("expected_dmos", pa.float32()),
    pa.field("tradition_score", pa.float32()),
    pa.field("percept_score", pa.float32()),
    pa.field("semantic_score", pa.float32()),
    pa.field("psnr_db", pa.float32()),
    pa.field("ssim", pa.float32()),
    pa.field("ms_ssim", pa.float32()),
    pa.field("lpips", pa.float32()),
)
SIZE_FIELDS = (pa.field("height_px", pa.int32()), pa.field("width_px", pa.int32()))
STATUS_FIELDS = (
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string(), nullable=False),
    pa.field("fetch_retries", pa.int32(), nullable=False),
)
IMAGE_FIELDS = (
    pa.field("reference_sha256", pa.string()),
    pa.field("distorted_sha256", pa.string()),
    pa.field("reference_tag", pa.string()),
    pa.field("distorted_tag", pa.string()),
)
"""What identifies the content of each image: the sha256 of its bytes, and what its store said of it
before it was fetched (see `pipeline.scoring.images.tags`)."""
REUSE_FIELD = pa.field("reused_from", pa.string())
LINEAGE_FIELDS = (
    pa.field("model_digest", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("run_attempt", pa.int32(), nullable=False),
    REUSE_FIELD,
)
PIXEL_FIELDS = (
    pa.field("reference_pixels", pa.large_binary()),
    pa.field("distorted_pixels", pa.large_binary()),
)
"""Decoded images between the load and score stages: H x W x 3 bytes of RGB, null unless ok."""

RESERVED_COLUMNS = frozenset(
    field.name
    for field in (
        *(*SCORE_FIELDS, *SIZE_FIELDS, *STATUS_FIELDS),
        *(*IMAGE_FIELDS, *LINEAGE_FIELDS, *PIXEL_FIELDS),
    )
)
"""Names that a manifest's columns must not have."""


def pass_through_schema(manifest: pa.Schema, image_columns: Iterable[str]) -> pa.Schema:
    """Return the pass-through columns: all of the manifest except encoded images."""
    dropped = {name for name in image_columns if not is_text(manifest.field(name).type)}
    return pa.schema([field for field in manifest if field.name not in dropped])


def loaded_schema(pass_through: pa.Schema) -> pa.Schema:
    """Return the schema of blocks between the load and score stages.

    Rows with reused_from have scores already; all others have none.
    """
    return pa.schema(
        [*pass_through, *SCORE_FIELDS, *SIZE_FIELDS, *STATUS_FIELDS, *IMAGE_FIELDS, REUSE_FIELD,
         *PIXEL_FIELDS]
    )  # fmt: skip


def result_schema(pass_through: pa.Schema) -> pa.Schema:
    """Return the schema of the results."""
    return pa.schema(
        [*pass_through, *SCORE_FIELDS, *SIZE_FIELDS, *STATUS_FIELDS, *IMAGE_FIELDS, *LINEAGE_FIELDS]
    )


def is_text(type_: pa.DataType) -> bool:
    """Return whether a column of this type can hold ids or URIs."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def is_bytes(type_: pa.DataType) -> bool:
    """Return whether a column of this type can hold encoded images."""
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def is_image_struct(type_: pa.DataType) -> bool:
    """Return whether a column holds Hugging Face's images: encoded bytes, or the path of a file."""
    return pa.types.is_struct(type_) and {field.name for field in type_} == {"bytes", "path"}
