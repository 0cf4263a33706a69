"""What every kind of source becomes: tables of rows, and notes on what was left out."""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import ContractError
from pipeline.runs.storage import STORE_ERRORS, open_store, store_error
from pipeline.runs.uris import is_chain, is_relative, one_line, plain_uri, redact, redact_uri

MAX_NAMED = 5
"""Files or rows that a message names."""
ROWS_PER_TABLE = 64
"""Rows with encoded images that are in memory together."""


@dataclass(frozen=True)
class Source:
    """An opened list or data set.

    Attributes:
        uri: where it is, for messages.
        base: URI of the folder where relative paths begin.
        schema: its columns.
        read: returns its rows, of the named columns only, as tables of one schema.
        notes: what was left out, one line each.
        numbers: columns of texts that are numbers, with the types to pass them through as.
    """

    uri: str
    base: str
    schema: pa.Schema
    read: Callable[[Sequence[str]], Iterator[pa.Table]]
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, pa.DataType] = field(default_factory=dict)


def open_place(setting: str, uri: str) -> tuple[AbstractFileSystem, str, str]:
    """Return the store of a URI, the path inside it, and the URI, absolute and without last slash.

    Raises:
        ContractError: the store cannot be opened, or the manifest would hold a secret.
        FaultError: the store is away.
    """
    if is_chain(uri):
        raise ContractError(f"{setting}: expected one store, got a chain of them: {redact(uri)}")
    if redact_uri(uri) != uri:  # images that are named after it would hold the secret, too
        raise ContractError(
            f"{setting}: expected a URI without user info and query, got {redact_uri(uri)}"
        )
    try:
        fs, path = open_store(uri)
    except STORE_ERRORS as error:
        raise store_error(f"{setting}: {uri} cannot be opened", error) from error
    is_local = isinstance(fs, LocalFileSystem)
    return fs, path, path if is_local else plain_uri(uri).rstrip("/")


def absolute_uri(base: str, uri: str) -> str:
    """Return a URI, or a relative path as it is seen from a folder; "" stays.

    In object stores .. is resolved, because they take it for a name.
    """
    if not uri or "://" in uri or not is_relative(uri):
        return uri
    if "://" not in base:
        return posixpath.join(base, uri.removeprefix("./"))
    scheme, _, rest = base.partition("://")
    host, _, folder = rest.partition("/")
    return f"{scheme}://{host}{posixpath.normpath(posixpath.join('/', folder, uri))}"


def list_first(names: Iterable[str]) -> str:
    """Return the first few names, each as one line."""
    first = list(islice(names, MAX_NAMED + 1))
    # Python reads names that are not UTF-8 with lone surrogates, which cannot be printed.
    writable = [name.encode(errors="backslashreplace").decode() for name in first[:MAX_NAMED]]
    shown = [redact(one_line(name)) for name in writable]
    return ", ".join(shown + ["..."] * (len(first) > MAX_NAMED))
