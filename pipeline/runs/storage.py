"""The only file that knows a store: local disks, S3 and whatever else fsspec can open.

Credentials and endpoints come from the environment or the standard AWS files, through fsspec's
own drivers; nothing here takes them from a manifest or a config, and `redact` keeps them out of
what people read.
"""

import hashlib
import os
import posixpath
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow.fs
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import FaultError

CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spips"
STORE_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError)
"""What a store that cannot be reached, read or written raises; BotoCoreError: without keys, say;
aiohttp's ClientError: an http server's."""
SHORTEST_SECRET = 6

_USER_INFO = re.compile(
    r"://[^/\s?#]*:[^/\s?#]*@|(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)://[^/\s?#]*@"
)
_HTTP_TAIL = re.compile(r"(https?://[^\s?#;]*)([?#;]\S*?)(?=['\")\],.]*(?:\s|$))", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s?]*)(\?[\w.-]+=\S*?)(?=['\")\],.]*(?:\s|$))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_SENT = re.compile(r"[\x00-\x1f]")  # clients leave these out of what they ask for


def check_writable(uri: str) -> None:
    """Raise when a local folder cannot be written; another store tells at the first write.

    Args:
        uri: a local path or fsspec URI.

    Raises:
        OSError: it is a file, or its nearest existing parent may not be written.
        ValueError: the store keeps nothing that another process could read.
    """
    fs, path = open_store(uri)
    if fs.protocol == "memory" or "http" in fs.protocol:
        raise ValueError(f"expected a store that all processes can write, got {redact(uri)}")
    if isinstance(fs, LocalFileSystem):
        existing = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise NotADirectoryError(f"expected a writable folder, got {existing}")


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI, and the path inside it.

    Args:
        uri: a local path or any fsspec URI.

    Raises:
        ValueError: the scheme is unknown.
        ImportError: the scheme's driver is not installed.
        OSError: the driver cannot reach the store.
    """
    fs, path = open_fs(uri)
    fs.invalidate_cache()  # other machines write there too
    return fs, path.rstrip("/")


def open_fs(uri: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI, and the path inside it, as its driver gives them.

    Args:
        uri: a local path or any fsspec URI.
        options: for the driver.

    Raises:
        ValueError, ImportError, OSError: as `open_store`.
    """
    try:
        return url_to_fs(uri, **options)  # type: ignore[no-any-return]
    except STORE_ERRORS:
        raise
    except Exception as error:  # some drivers raise what they like when a URI lacks something
        raise ValueError(f"not a URI that can be opened: {describe(error)}") from error


def arrow_filesystem(fs: AbstractFileSystem) -> pyarrow.fs.FileSystem:
    """Return the file system as pyarrow and Ray Data take it.

    pyarrow's own S3 client streams checksums that many S3 servers refuse, hence fsspec's.

    Args:
        fs: as `open_store` returns it.
    """
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem()
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


def redact(text: str) -> str:
    """Return the text with user info and query values of URIs replaced by ***.

    Paths stay as they are, even with = and & in them, and so does abfs's container@account.

    Args:
        text: a URI, or an error message with URIs in it.
    """
    for tail in (_HTTP_TAIL, _QUERY):
        text = tail.sub(lambda match: match[1] + _without_values(match[2]), text)
    return _USER_INFO.sub("://***@", text)


def _without_values(tail: str) -> str:
    """Return a query or fragment with names only; versionId, which is no secret, is kept."""
    parts = re.split(r"([?&#;])", tail)
    for index, part in enumerate(parts[2::2], start=1):
        name, separator, _ = part.partition("=")
        if part and name != "versionId":
            parts[2 * index] = f"{name}=***" if separator else "***"
    return "".join(parts)


def redact_uri(uri: str) -> str:
    """Return a URI with user info and query values replaced by ***, whatever stands in it.

    Args:
        uri: one URI and nothing else; a local path is returned as it is.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    is_http = scheme.lower() in ("http", "https")
    start = re.search(r"[?#;]" if is_http else r"\?(?=[\w.-]+=)", rest)
    head, tail = (rest[: start.start()], rest[start.start() :]) if start else (rest, "")
    place, slash, path = head.partition("/")
    user, at, host = place.rpartition("@")
    is_container = scheme in ("abfs", "abfss", "wasb", "wasbs") and ":" not in user
    if at and not is_container:
        place = f"***@{host}"
    return f"{scheme}://{place}{slash}{path}{_without_values(tail)}"


def one_line(text: str) -> str:
    """Return a text with its control characters written out, so that it is a line and no more.

    Args:
        text: that may hold what a stranger wrote.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact_as(text: str, uri: str) -> str:
    """Return the text redacted, and without a URI's secrets wherever they stand in it.

    Servers repeat what they were asked for, without the host, or encoded.

    Args:
        text: an error message.
        uri: that was asked for.
    """
    text = redact(text)
    secrets = re.findall(r"://([^/\s?#]*)@", uri)
    secrets += [secret.partition(":")[2] for secret in secrets]
    secrets += re.findall(r"=([^&#]*)", uri.partition("?")[2])
    for secret in sorted(secrets, key=len, reverse=True):
        for written in (secret, unquote(secret), quote(secret), quote(secret, safe="")):
            if len(written) >= SHORTEST_SECRET:
                text = text.replace(written, "***")
    return text


def is_relative(uri: str) -> bool:
    """Return whether a URI is a path that means something else on every machine."""
    path = uri.removeprefix("file://").removeprefix("local://")
    return "://" not in path and "::" not in path and not Path(path).is_absolute()


def is_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    """Return whether a URI lies in one of the folders.

    A local path is compared after `..` and links are resolved, any other URI as it is written: a
    URI with `..` in it is not allowed, since each store and client resolves that in its own way.

    Args:
        uri: a local path or fsspec URI.
        prefixes: folders; a prefix ends at a slash, so s3://a does not allow s3://ab.
    """
    if "::" in uri or "\x00" in uri:  # a chain names a second store inside the first
        return False
    if not _is_local(uri) and ".." in re.split(r"[/\\;]", _NOT_SENT.sub("", unquote(uri))):
        return False
    place = _place(uri)
    return any(
        place == prefix or place.startswith(prefix + "/")
        for prefix in (_place(prefix).rstrip("/") for prefix in prefixes)
    )


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith(("file://", "local://"))


def _place(uri: str) -> str:
    if _is_local(uri):  # as fsspec will open it, which expands ~, say
        return str(os.path.realpath(LocalFileSystem._strip_protocol(uri)))
    scheme, separator, rest = uri.partition("://")
    return f"{scheme.lower()}{separator}{rest}"


def content_id(fs: AbstractFileSystem, path: str) -> str:
    """Return what changes when a file's content does: the store's ETag, else the sha256.

    Args:
        fs: the file's store.
        path: the file.
    """
    info = fs.info(path)
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(key):
            return f"{info['size']} {info[key]}"
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(fs: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a small file so that a reader sees all of it or nothing.

    Args:
        fs: the file's store.
        path: the file to write; its folder is made.
        content: all of its bytes.
    """
    if not isinstance(fs, LocalFileSystem):  # object stores show an object once it is complete
        fs.pipe_file(path, content)
        return
    partial = Path(f"{path}.{uuid.uuid4().hex}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def local_copy(uri: str, sha256: str | None) -> Path:
    """Return a file as a local path, fetched once a machine and checked.

    Args:
        uri: a local path or fsspec URI.
        sha256: expected digest; None only for a local path.

    Raises:
        FaultError: the file cannot be had, or its digest is another.
    """
    try:
        fs, path = open_store(uri)
        is_local = isinstance(fs, LocalFileSystem)
        file = Path(path) if is_local else CACHE_FOLDER / str(sha256) / posixpath.basename(path)
        is_here = is_local or file.is_file()
        content = file.read_bytes() if is_here else fs.cat_file(path)
        got = hashlib.sha256(content).hexdigest()
        if sha256 not in (None, got):
            raise FaultError(f"{redact(uri)}: expected sha256 {sha256}, got {got}")
        if not is_here:
            write_whole(LocalFileSystem(), str(file), content)
    except STORE_ERRORS as error:
        raise FaultError(f"{redact(uri)}: cannot be read: {describe(error)}") from error
    return file


def describe(error: Exception) -> str:
    """Return an exception as one line without secrets.

    Args:
        error: any exception.
    """
    lines = str(error).strip().splitlines()
    if lines == ["None"] and isinstance(error.__cause__, Exception):
        return describe(error.__cause__)  # some stores give a code without words, kept there
    return redact(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
