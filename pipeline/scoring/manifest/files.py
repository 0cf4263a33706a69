"""Find a manifest's Parquet files: of a path, a folder, a glob, or of a table's snapshot."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import unquote

import pyarrow as pa
from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError
from pipeline.runs.storage import find_files, is_broken_link, open_store
from pipeline.runs.summary import counted
from pipeline.runs.uris import redact
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.resources import FOOTER_THREADS

MAKE_ONE = "`spips manifest` makes a manifest of tables, lists and folders of images"
REWRITE = "write the rows of the version as Parquet files"
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
"""What the names of a folder's Parquet files end in, in lower or upper case."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The value of a null in a folder's name."""
Values = Mapping[str, pa.Scalar]
"""Columns that have one value in all rows of a file, which the file itself does not hold."""


@dataclass(frozen=True)
class ManifestFiles:
    """The files whose rows are the manifest's.

    Attributes:
        fs: their store.
        paths: the files, sorted.
        base: what the paths of all files of a folder begin with.
        folder: the folder that holds all files; None if the config names a file or a glob.
        left_out: other files in that folder, without those that are hidden.
        values: columns that the names of folders or a table give, by path; empty without them.
        table: what a table's metadata says of its columns; None for files that say it themselves.
        source: a line for people on the table or the names of folders; "" without them.
        version: of a table, its version or snapshot; None for loose files.
    """

    fs: AbstractFileSystem
    paths: list[str]
    base: str
    folder: str | None
    left_out: list[str] = field(default_factory=list)
    values: Mapping[str, Values] = field(default_factory=dict)
    table: pa.Schema | None = None
    source: str = ""
    version: int | None = None


def find_manifest_files(config: ManifestConfig) -> ManifestFiles:
    """Return the files of a manifest.

    Raises:
        ContractError: there are none, or it is not clear which they are.
        STORE_ERRORS: the store cannot be read.
    """
    fs, root = open_store(config.uri)
    uri = redact(config.uri)
    kind = table_format(fs, root)
    if kind is not None:
        files = _open_table(kind, fs, root, config, uri)
    elif config.version is not None:
        raise ContractError(
            f"manifest.version: expected the folder of a Delta or Iceberg table, got none at {uri}"
        )
    else:
        files = _find_loose(fs, root)
    if not files.paths:
        raise ContractError(f"manifest.uri: expected Parquet files, got none at {uri}; {MAKE_ONE}")
    broken = [path for path in files.paths if is_broken_link(fs, path)]
    if broken:  # to leave it out would score a part of the pairs
        raise ContractError(
            *(
                f"manifest.uri: expected a file, got a link to nothing: {redact(path)}"
                for path in broken
            )
        )
    return files


def table_format(fs: AbstractFileSystem, root: str) -> str | None:
    """Return whose log a folder has; only a table's log says which of its files are valid."""
    if fs.isdir(f"{root}/_delta_log"):
        return "Delta"
    is_metadata = root.endswith(".metadata.json")
    return "Iceberg" if is_metadata or fs.glob(f"{root}/metadata/*.metadata.json") else None


def _open_table(
    kind: str, fs: AbstractFileSystem, root: str, config: ManifestConfig, uri: str
) -> ManifestFiles:
    try:  # of an extra
        if kind == "Delta":
            from pipeline.scoring.manifest.delta import find_delta_files as find
        else:
            from pipeline.scoring.manifest.iceberg import find_iceberg_files as find
    except ImportError as error:
        raise ContractError(
            f"manifest.uri: {uri} is a table; pip install 'spips[{kind.lower()}]' first: {error}"
        ) from error
    return find(fs, root, config.version, uri)


def check_present(fs: AbstractFileSystem, paths: Sequence[str], version: int, uri: str) -> None:
    """Check that the files of a table's version are still there.

    Raises:
        ContractError: some are not.
    """
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        is_there = pool.map(fs.exists, paths)
        lost = [path for path, there in zip(paths, is_there, strict=True) if not there]
    if lost:
        raise ContractError(
            f"manifest.version: expected the files of version {version} at {uri}, got "
            f"{counted(len(lost), 'file')} removed from the table, as by VACUUM, for example "
            f"{redact(lost[0])}; choose a later version"
        )


def _find_loose(fs: AbstractFileSystem, root: str) -> ManifestFiles:
    """Return the Parquet files of a path, folder or glob, and the columns of their folders."""
    wildcard = None if fs.exists(root) else re.search(r"[*?\[]", root)
    if wildcard:
        base = root[: wildcard.start()].rpartition("/")[0]
        found = [path for path in fs.glob(root) if not fs.isdir(path)]
    elif fs.isdir(root):
        base, found = root, find_files(fs, root)
    else:  # a single file can have any name
        return ManifestFiles(fs, [root], root.rpartition("/")[0], None)
    chosen = visible = sorted(path for path in found if not _is_hidden(path.removeprefix(base)))
    if not wildcard:  # which chooses names itself
        chosen = [path for path in visible if path.lower().endswith(PARQUET_SUFFIXES)]
    keys, values = read_keys("manifest.uri", base, chosen)
    source = f"keys      {', '.join(keys)}: columns of texts, from the folders' names"
    return ManifestFiles(
        fs, chosen, base, None if wildcard else root, sorted(set(visible) - set(chosen)),
        {
            path: {key: pa.scalar(value, pa.string()) for key, value in of_path.items()}
            for path, of_path in values.items()
        },
        source=source if keys else "",
    )  # fmt: skip


def _is_hidden(path: str) -> bool:
    """Return whether a part of a path begins with a dot or _, unless the latter is a key's."""
    return any(
        part.startswith(".") or (part.startswith("_") and "=" not in part)
        for part in path.split("/")
    )


def read_keys(
    setting: str, base: str, paths: Sequence[str]
) -> tuple[list[str], dict[str, dict[str, str | None]]]:
    """Return the keys of folders named key=value, as Hive writes them, and each path's values.

    Args:
        setting: for the message.
        base: the folder below which such names count.
        paths: files.

    Returns:
        The keys, and by path the values: unquoted texts, or None for a null. Both are empty if no
        folder is named so.

    Raises:
        ContractError: paths have different keys, or one has a key twice.
        UnicodeDecodeError: a value is not UTF-8.
    """
    pairs = {path: _pairs_of(path.removeprefix(base)) for path in paths}
    expected = next(([key for key, _ in found] for found in pairs.values() if found), [])
    for path, found in pairs.items():
        got = [key for key, _ in found]
        if got != expected or len(set(got)) < len(got):
            raise ContractError(
                f"{setting}: expected every file below folders named after the same keys, "
                f"{', '.join(f'{key}=' for key in expected)} each once, got "
                f"{', '.join(f'{key}=' for key in got) or 'none'} in {redact(path)}"
            )
    return expected, {path: dict(found) for path, found in pairs.items()} if expected else {}


def _pairs_of(path: str) -> list[tuple[str, str | None]]:
    parts = (part.partition("=") for part in path.split("/")[:-1])
    return [
        (
            unquote(key, errors="strict"),
            None if value == NO_VALUE else unquote(value, errors="strict"),
        )
        for key, is_pair, value in parts
        if key and is_pair
    ]
