"""Read WebDataset tars: the files of a sample share their name up to its first dot."""

import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from lzma import LZMAError
from typing import Any

import pyarrow as pa
from fsspec import AbstractFileSystem

from pipeline.manifests.columns import choose_columns
from pipeline.manifests.config import SourceConfig
from pipeline.manifests.folders import IMAGE_SUFFIXES
from pipeline.manifests.source import MAX_NAMED, ROWS_PER_TABLE, Source, list_first
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import describe

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
ARCHIVE_ERRORS = (tarfile.TarError, EOFError, zlib.error, LZMAError)
"""What damaged archives raise, apart from OSError."""
Span = tuple[int, int]
"""Where a file begins in its archive, and its length, in bytes."""


@dataclass
class Sample:
    """The files of an archive that share a key.

    Attributes:
        archive: the archive's path.
        key: their name up to the first dot.
        images: span of each image by what stands between key and suffix.
        values: content of .txt files, and keys of .json files.
    """

    archive: str
    key: str
    images: dict[str, Span] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def open_archives(
    fs: AbstractFileSystem, paths: Sequence[str], uri: str, folder: str, config: SourceConfig
) -> Source:
    """Read the names in archives, and return a source that reads the images later.

    An image's column is what stands between the sample's key and the image's suffix: reference for
    000.reference.png, and png for 000.png. Files named .txt are columns of texts, and each key of a
    .json file is a column. The id is the archive's name without suffix, and the key.

    Args:
        fs: their store.
        paths: the archives.
        uri: the source, for messages.
        folder: path of the folder that holds them.
        config: chooses the columns.

    Raises:
        ContractError: an archive is damaged, a sample lacks an image or has one twice, or columns
            are missing; all samples are checked.
    """
    samples: list[Sample] = []
    others: list[str] = []
    for path in paths:
        samples += _find_samples(fs, path, others)
    if not any(sample.images for sample in samples):
        raise ContractError(f"source.uri: expected images in tars, got none at {uri}")
    values = _make_columns(samples)
    if config.pair_id_column is None and "pair_id" not in values:
        values["pair_id"] = pa.array([_id_of(sample, folder) for sample in samples], pa.string())
    images = dict.fromkeys(name for sample in samples for name in sample.images)
    both = sorted(values.keys() & images.keys())
    if both:
        raise ContractError(f"source.uri: expected one column {both[0]!r}, got two at {uri}")
    schema = pa.schema(
        [(name, pa.binary()) for name in images] + [(n, v.type) for n, v in values.items()]
    )
    columns = choose_columns(config, schema, uri)
    chosen = (columns.reference, columns.distorted)
    _check_whole(samples, chosen, uri)
    extra = [name for name in images if name not in chosen]
    notes = [f"images left out, in no pair: {list_first(extra)}"] if extra else []
    if others:
        notes.append(f"{len(others):,} files left out, neither images, .txt nor .json: "
                     f"{list_first(others)}")  # fmt: skip
    kept = pa.schema([f for f in schema if f.name in chosen or f.name in values])

    def read(names: Sequence[str]) -> Iterator[pa.Table]:
        rows = pa.table(values)
        for start, content in _read_images(fs, samples, [n for n in names if n in images]):
            table = rows.slice(start, len(next(iter(content.values()))))
            for name, encoded in content.items():
                table = table.append_column(name, pa.array(encoded, pa.binary()))
            yield table.select(list(names))

    return Source(uri, folder, kept, read, tuple(notes))


@contextmanager
def _open_tar(fs: AbstractFileSystem, path: str) -> Iterator[tarfile.TarFile]:
    """Open an archive.

    Raises:
        ContractError: the archive is damaged.
    """
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:*") as tar:
            yield tar
    except ARCHIVE_ERRORS as error:
        raise ContractError(
            f"source.uri: expected a whole tar at {path}, got {describe(error)}"
        ) from error


def _find_samples(fs: AbstractFileSystem, path: str, others: list[str]) -> list[Sample]:
    """Return an archive's samples, and append the names of its other files to a list.

    Raises:
        ContractError: the archive is damaged, or a sample has two files for one column.
    """
    samples: dict[str, Sample] = {}
    with _open_tar(fs, path) as tar:
        while (member := tar.next()) is not None:
            # It would keep an object for each file.
            tar.members = []  # type: ignore[attr-defined]  # mypy does not know it
            if member.isdir():
                continue
            if not _add(samples, tar, member, path):
                others.append(member.name)
        # tarfile takes a header that is cut off or damaged for the end, which is a block of zeros.
        if any(_read_span(tar, (tar.offset, tarfile.BLOCKSIZE), path)):
            raise ContractError(f"source.uri: expected a whole tar at {path}, got a damaged header")
    return list(samples.values())


def _add(
    samples: dict[str, Sample], tar: tarfile.TarFile, member: tarfile.TarInfo, path: str
) -> bool:
    """Add a file to its sample; return whether it is an image, a .txt or a .json."""
    folder, name = posixpath.split(posixpath.normpath(member.name))  # of ./000.png, too
    stem, _, ending = name.partition(".")
    suffix = f".{ending.rpartition('.')[2]}".lower()
    column = ending[: -len(suffix)] or ending
    is_plain = member.isreg() and not member.issparse()
    if not stem or not is_plain or suffix not in {*IMAGE_SUFFIXES, ".txt", ".json"}:
        return False
    key = posixpath.join(folder, stem)
    sample = samples.setdefault(key, Sample(path, key))
    if suffix in IMAGE_SUFFIXES:
        new: dict[str, Any] = {column: (member.offset_data, member.size)}
    else:
        new = _read_values(tar, member, column, suffix, path)
    repeated = new.keys() & {*sample.images, *sample.values}
    if repeated:
        raise ContractError(
            f"source.uri: expected one {min(repeated)!r} in sample {key!r} of {path}, got two, the "
            f"second in {member.name}"
        )
    (sample.images if suffix in IMAGE_SUFFIXES else sample.values).update(new)
    return True


def _read_values(
    tar: tarfile.TarFile, member: tarfile.TarInfo, column: str, suffix: str, path: str
) -> dict[str, Any]:
    """Return the columns of a .txt or .json file."""
    try:
        text = _read_span(tar, (member.offset_data, member.size), path).decode()
        if suffix == ".txt":
            return {column: text.strip()}
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    except ValueError as error:
        raise ContractError(
            f"source.uri: expected UTF-8{' JSON' * (suffix == '.json')} in {member.name} of {path},"
            f" got {error}"
        ) from error
    raise ContractError(
        f"source.uri: expected a JSON object in {member.name} of {path}, got "
        f"{type(values).__name__}"
    )


def _read_span(tar: tarfile.TarFile, span: Span, path: str) -> bytes:
    file: Any = tar.fileobj  # of a compressed archive, its content
    file.seek(span[0])
    content: bytes = file.read(span[1])
    if len(content) < span[1]:
        raise ContractError(f"source.uri: expected a whole tar at {path}, got the end of the file")
    return content


def _make_columns(samples: Sequence[Sample]) -> dict[str, pa.Array]:
    """Return the columns of the samples' values."""
    names = dict.fromkeys(name for sample in samples for name in sample.values)
    return {name: _make_column([sample.values.get(name) for sample in samples]) for name in names}


def _id_of(sample: Sample, folder: str) -> str:
    name = sample.archive.removeprefix(f"{folder}/")
    suffix = next(suffix for suffix in reversed(TAR_SUFFIXES) if name.lower().endswith(suffix))
    return f"{name[: -len(suffix)]}/{sample.key}"


def _make_column(values: list[Any]) -> pa.Array:
    """Return values as an array; as texts if they are of several types."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        texts = (v if v is None or isinstance(v, str) else json.dumps(v) for v in values)
        column = pa.array(texts, pa.string())
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _check_whole(samples: Sequence[Sample], chosen: Sequence[str], uri: str) -> None:
    halves = [
        f"{sample.key!r} of {sample.archive} has no {name!r}"
        for sample in samples
        for name in chosen
        if name not in sample.images
    ]
    if halves:
        more = f", and {len(halves) - MAX_NAMED:,} more" if len(halves) > MAX_NAMED else ""
        raise ContractError(
            f"source.uri: expected {chosen[0]!r} and {chosen[1]!r} in every sample at {uri}, got "
            f"samples without one: {'; '.join(halves[:MAX_NAMED])}{more}"
        )


def _read_images(
    fs: AbstractFileSystem, samples: Sequence[Sample], names: Sequence[str]
) -> Iterator[tuple[int, dict[str, list[bytes]]]]:
    """Yield the first row and the images, by column, of a few samples of one archive at a time."""
    start = 0
    while start < len(samples):
        path = samples[start].archive
        with _open_tar(fs, path) as tar:
            while start < len(samples) and samples[start].archive == path:
                some = samples[start : start + ROWS_PER_TABLE]
                some = [sample for sample in some if sample.archive == path]
                content: dict[str, list[bytes]] = {name: [] for name in names}
                for sample in some:
                    # In the order of the archive: going back in a compressed one starts it again.
                    for name in sorted(names, key=lambda n: sample.images[n]):
                        content[name].append(_read_span(tar, sample.images[name], path))
                yield start, content
                start += len(some)
