"""Get the bytes of a few rows' images, or for each image the reason why there are none."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status, is_image_struct
from pipeline.runs.storage import describe
from pipeline.runs.uris import (
    explain_relative,
    is_allowed,
    is_chain,
    is_relative,
    redact_as,
    shorten,
)
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.fetch import Fetched, fetch

Source = str | bytes | None
"""A manifest's cell: a URI, an encoded image, or nothing."""


def sources_of(images: pa.Array | pa.ChunkedArray) -> list[Source]:
    """Return the cells of an image column; of a struct its bytes, or else its path."""
    cells: list[Any] = images.to_pylist()
    if not is_image_struct(images.type):
        return cells
    return [cell and (cell["path"] if cell["bytes"] is None else cell["bytes"]) for cell in cells]


def get_contents(
    sources: Sequence[Source], rules: ImagesConfig
) -> tuple[dict[Source, bytes | RowError], dict[Source, int]]:
    """Return each source's bytes or the reason why there are none, and each URI's retries."""
    contents: dict[Source, bytes | RowError] = {}
    uris = []
    for source in sources:
        if isinstance(source, bytes):
            contents[source] = source
        elif source:
            refused = refuse(source, rules)
            if refused is None:
                uris.append(source)
            else:
                contents[source] = refused
        else:
            got = "null" if source is None else "nothing"
            contents[source] = RowError(Status.MISSING, f"expected a URI or an image, got {got}")
    fetched = dict(zip(uris, fetch(uris, rules.max_bytes), strict=True))
    contents |= {uri: _content(uri, one) for uri, one in fetched.items()}
    for source, content in contents.items():
        if isinstance(content, bytes) and len(content) > rules.max_bytes:
            contents[source] = RowError(
                Status.TOO_LARGE,
                f"expected at most {rules.max_bytes} bytes (images.max_bytes), got more",
            )
    return contents, {uri: one.num_retries for uri, one in fetched.items()}


def refuse(uri: str, rules: ImagesConfig) -> RowError | None:
    """Return the reason why a URI must not be opened, if there is one."""
    if uri.startswith("data:"):
        return RowError(
            Status.UNREADABLE,
            "expected a URI or an absolute path, got a data: URI; give a column of bytes",
        )
    if is_relative(uri):
        return RowError(Status.UNREADABLE, explain_relative(uri))
    if is_chain(uri):  # no limit would hold for the inner store
        return RowError(
            Status.FORBIDDEN, "expected a URI of one store, got a chain of several (::)"
        )
    prefixes = rules.allowed_uri_prefixes
    if prefixes is not None and not is_allowed(uri, prefixes):
        return RowError(
            Status.FORBIDDEN,
            "expected a URI under images.allowed_uri_prefixes, got one outside",
        )
    return None


def _content(uri: str, fetched: Fetched) -> bytes | RowError:
    """Return an image's bytes, or the reason why it could not be fetched."""
    error = fetched.content
    if isinstance(error, bytes):
        return error
    if isinstance(error, FileNotFoundError):
        return RowError(Status.MISSING, "expected an image, got no object")
    got = shorten(redact_as(describe(error), uri))
    if isinstance(error, PermissionError):
        return RowError(Status.FORBIDDEN, f"expected read access, got {got}")
    tries = f" in {fetched.num_retries + 1} tries" if fetched.num_retries else ""
    return RowError(Status.UNREADABLE, f"expected readable bytes, got {got}{tries}")
