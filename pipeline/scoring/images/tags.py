"""Tags: what a store says of an object, which changes when the object does; no byte is read.

A file's tag is its size and the times of its last changes in nanoseconds. S3's is size and entity
tag, HTTP's is size and entity tag or else the time of the last change.
"""

import asyncio
import os
import stat
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.storage import STORE_ERRORS, etag_of, is_transient
from pipeline.runs.uris import redact_uri
from pipeline.scoring.images.fetch import open_image
from pipeline.scoring.resources import KEYS_PER_PAGE, LEAST_KEYS_PER_PAGE, TAG_REQUESTS, TAG_THREADS

UNSETTLED_S = 2.0
"""A file that was changed less than this before it is looked at has no tag: clocks of file systems
are coarse, so it could change once more and keep its times."""
Tags = dict[str, str | None]


def tags_of(uris: Iterable[str]) -> Tags:
    """Return each object's tag; None if there is no such object or its store gives no tag.

    Objects of one store are asked for concurrently, and never answered from a cache. A URI with
    secrets has no tag, because results do not hold its whole name.

    Args:
        uris: local paths or fsspec URIs that may be opened.
    """
    tags: Tags = dict.fromkeys(uris)
    local: list[tuple[str, str]] = []
    stores: dict[int, tuple[AsyncFileSystem, dict[str, str]]] = {}
    for uri in tags:
        if uri.startswith("/"):
            local.append((uri, uri))
        elif redact_uri(uri) == uri:
            with suppress(*STORE_ERRORS):
                fs, path = open_image(uri)
                if isinstance(fs, LocalFileSystem):
                    local.append((uri, path))
                elif isinstance(fs, AsyncFileSystem):
                    stores.setdefault(id(fs), (fs, {}))[1][path] = uri
    with ThreadPoolExecutor(TAG_THREADS) as pool:  # a network disk has latency
        for part in pool.map(_tags_of_files, (local[i::TAG_THREADS] for i in range(TAG_THREADS))):
            tags |= part
    for fs, paths in stores.values():
        found = sync(fs.loop, _ask, fs, list(paths))
        tags |= {paths[path]: tag for path, tag in found.items()}
    return tags


def _tags_of_files(files: Iterable[tuple[str, str]]) -> Tags:
    return {uri: _tag_of_file(path) for uri, path in files}


def _tag_of_file(path: str) -> str | None:
    try:
        info = os.stat(path)  # noqa: PTH116 - pathlib takes as long again
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(info.st_mode) or info.st_ctime > time.time() - UNSETTLED_S:
        return None
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"


async def _ask(fs: AsyncFileSystem, paths: Iterable[str]) -> Tags:
    """Ask one store; when it is busy or away, the objects that are left have no tag."""
    fs.invalidate_cache()
    found: Tags = {}
    requests = asyncio.Semaphore(TAG_REQUESTS)
    folders: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    with suppress(BaseExceptionGroup):  # of transient errors
        async with asyncio.TaskGroup() as group:
            for path in paths:
                bucket, key, version = fs.split_path(path) if "s3" in fs.protocol else ("", "", "")
                if key and version is None:
                    folders[bucket, f"{key.rpartition('/')[0]}/".lstrip("/")][key] = path
                else:
                    group.create_task(_ask_one(fs, path, found, requests))
            for (bucket, folder), keys in folders.items():
                group.create_task(_ask_folder(fs, bucket, folder, keys, found, requests))
    return found


async def _ask_one(
    fs: AsyncFileSystem, path: str, found: Tags, requests: asyncio.Semaphore
) -> None:
    """Note an object's tag, if it has one; raise an error only if it holds for the whole store."""
    kind = next((kind for kind in _ASK if kind in fs.protocol), None)
    ask = _ASK[kind] if kind else _ask_any
    async with requests:
        try:
            found[path] = await ask(fs, path)
        except STORE_ERRORS as error:
            if is_transient(error):
                raise


async def _ask_folder(
    fs: AsyncFileSystem, bucket: str, folder: str, paths: dict[str, str], found: Tags,
    requests: asyncio.Semaphore,
) -> None:  # fmt: skip
    """Note tags of a folder's keys on S3, by key: list it while pages hold enough of them."""
    left = sorted(paths, key=str.encode)  # in S3's order
    num_held = LEAST_KEYS_PER_PAGE
    while num_held >= LEAST_KEYS_PER_PAGE and len(left) >= LEAST_KEYS_PER_PAGE:
        async with requests:
            try:
                page = await fs._call_s3(
                    "list_objects_v2", Bucket=bucket, Prefix=folder, StartAfter=_before(left[0]),
                    MaxKeys=KEYS_PER_PAGE,
                )  # fmt: skip
            except STORE_ERRORS as error:
                if is_transient(error):
                    raise
                break  # who may read need not be allowed to list
        listed = {one["Key"]: _s3_tag(one["Size"], one["ETag"]) for one in page.get("Contents", ())}
        num_held = len(left)
        if page["IsTruncated"]:
            last = max(listed, key=str.encode, default="").encode()
            num_held = bisect_right(left, last, key=str.encode)
        found.update((paths[key], listed.get(key)) for key in left[:num_held])
        left = left[num_held:]
    await asyncio.gather(*(_ask_one(fs, paths[key], found, requests) for key in left))


def _before(key: str) -> str:
    """Return a key that S3 lists before this one, with hardly any others in between."""
    if "!" <= key[-1] <= "~":
        return f"{key[:-1]}{chr(ord(key[-1]) - 1)}~"
    return key[:-1]


def _s3_tag(size: int, etag: str) -> str:
    return f"{size} " + etag.strip('"')


async def _ask_s3(fs: AsyncFileSystem, path: str) -> str | None:
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    head = await fs._call_s3("head_object", Bucket=bucket, Key=key, **which)
    return _s3_tag(head["ContentLength"], head["ETag"])


async def _ask_http(fs: AsyncFileSystem, url: str) -> str | None:
    session = await fs.set_session()
    async with session.head(fs.encode_url(url), allow_redirects=True, **fs.kwargs) as answer:
        tag = answer.headers.get("ETag", "W/")
        if tag.startswith("W/"):  # a weak one may stay the same when bytes change
            tag = answer.headers.get("Last-Modified")
        size = answer.headers.get("Content-Length")
        return f"{size} {tag}" if answer.status == HTTPStatus.OK and size and tag else None


async def _ask_any(fs: AsyncFileSystem, path: str) -> str | None:
    return etag_of(await fs._info(path))


_ASK = {"s3": _ask_s3, "http": _ask_http}
