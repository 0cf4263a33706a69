"""The only file that knows stores: local disks, S3, and everything else that fsspec can open.

fsspec's drivers read credentials and endpoints from the environment or the standard AWS files.
This project never reads them from a manifest or a config, and `redact` removes them from messages.
"""

import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import FaultError
from pipeline.runs.uris import plain_uri, redact

CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spips"
STORE_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError)
"""What drivers raise when a store cannot be reached, read or written. BotoCoreError comes from S3
(for example without keys), ClientError from HTTP servers."""


def check_writable(uri: str) -> None:
    """Check that a local folder can be written; other stores fail at the first write.

    Raises:
        OSError: the path is a file, or its nearest existing parent is not writable.
        ValueError: other processes cannot read what is written to this store.
    """
    fs, path = open_store(uri)
    if fs.protocol == "memory" or "http" in fs.protocol:
        raise ValueError(f"expected a store that every process can write, got {redact(uri)}")
    if isinstance(fs, LocalFileSystem):
        existing = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise NotADirectoryError(f"expected a writable folder, got {existing}")


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI and the path inside it.

    Raises:
        ValueError: the scheme is unknown.
        ImportError: the scheme's driver is not installed.
        OSError: the driver cannot reach the store.
    """
    fs, path = open_fs(uri)
    fs.invalidate_cache()  # other machines write here too
    return fs, path.rstrip("/")


def open_fs(uri: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI and the path inside it, unchanged from the driver.

    Raises:
        ValueError, ImportError, OSError: as in `open_store`.
    """
    try:
        return url_to_fs(plain_uri(uri), **options)  # type: ignore[no-any-return]
    except STORE_ERRORS:
        raise
    except Exception as error:  # drivers raise anything for incomplete URIs
        raise ValueError(f"expected a URI that can be opened, got {describe(error)}") from error


def find_files(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Return the paths of all files below a folder. Links to local folders are followed."""
    if not isinstance(fs, LocalFileSystem):
        return list(fs.find(folder))

    def walk(path: str, above: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in above:  # a link that leads back
            return
        for entry in os.scandir(path):
            if entry.is_dir():
                yield from walk(entry.path, (*above, real))
            else:
                yield entry.path

    return list(walk(folder, ()))


def is_inside(uri: str, fs: AbstractFileSystem, folder: str) -> bool:
    """Return whether a URI is a folder or inside it. Links of local paths are resolved."""
    other_fs, path = open_store(uri)
    if isinstance(fs, LocalFileSystem):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return type(other_fs) is type(fs) and f"{path}/".startswith(f"{folder}/")


def arrow_filesystem(fs: AbstractFileSystem) -> pyarrow.fs.FileSystem:
    """Return the file system for pyarrow and Ray Data.

    It wraps fsspec's S3 client, because many S3 servers refuse the checksums that pyarrow's own S3
    client streams.
    """
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem()
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


def content_id(fs: AbstractFileSystem, path: str) -> str:
    """Return a text that changes with a file's content: the store's ETag, else the sha256."""
    info = fs.info(path)
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(key):
            return f"{info['size']} {info[key]}"
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(fs: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a small file so that a reader sees either all of it or nothing."""
    if not isinstance(fs, LocalFileSystem):  # object stores show only complete objects
        fs.pipe_file(path, content)
        return
    # Readers of a whole folder ignore names that begin with a dot.
    partial = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def local_copy(uri: str, sha256: str | None) -> Path:
    """Return a local path of a file, which is fetched once per machine and checked.

    Args:
        uri: a local path or fsspec URI.
        sha256: expected digest; None only for a local path.

    Raises:
        FaultError: the file cannot be read, or its digest differs.
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
    """Return an exception as one line without secrets."""
    lines = str(error).strip().splitlines()
    if lines == ["None"] and isinstance(error.__cause__, Exception):
        return describe(error.__cause__)  # some stores keep the reason only there
    return redact(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
