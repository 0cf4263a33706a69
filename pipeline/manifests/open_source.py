"""Open a list or a data set by what its name ends in, or by what its folder holds."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fsspec import AbstractFileSystem

from pipeline.manifests.archives import TAR_SUFFIXES, open_archives
from pipeline.manifests.config import SourceConfig
from pipeline.manifests.datasets import open_parquet, open_saved
from pipeline.manifests.folders import IMAGE_SUFFIXES
from pipeline.manifests.lists import DELIMITERS, JSON_SUFFIXES, open_list
from pipeline.manifests.source import Source, list_first, open_place
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import find_files, is_inside
from pipeline.scoring.manifest.files import PARQUET_SUFFIXES, table_format

LIST_SUFFIXES = (*DELIMITERS, *JSON_SUFFIXES)
KINDS = (
    f"a list ({' '.join(LIST_SUFFIXES)}), Parquet files ({' '.join(PARQUET_SUFFIXES)}), tars "
    f"({' '.join(TAR_SUFFIXES)}) or a folder of save_to_disk"
)
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """Where a source is.

    Attributes:
        fs: its store.
        path: the file, folder or glob.
        uri: the same, as a URI.
        folder: path of the folder that holds its files.
        base: the same, as a URI.
        paths: its files, sorted, without those that are hidden.
    """

    fs: AbstractFileSystem
    path: str
    uri: str
    folder: str
    base: str
    paths: list[str]

    @property
    def is_file(self) -> bool:
        """Whether one file was named."""
        return self.paths == [self.path]


def open_source(config: SourceConfig, uri: str, output_uri: str) -> Source:
    """Open a list or a data set.

    Args:
        config: chooses the columns.
        uri: of a file, a folder or a glob.
        output_uri: where the manifest will be written.

    Raises:
        ContractError: the source is missing, or of no known kind, or would hold the output.
        STORE_ERRORS, ArrowException: it cannot be read.
    """
    place = _find(uri)
    finds_parquet = not place.path.lower().endswith((*LIST_SUFFIXES, *TAR_SUFFIXES))
    held = place.path if place.is_file else place.folder
    if finds_parquet and is_inside(output_uri, place.fs, held):
        raise ContractError(
            "output.uri: expected a file outside the source, where the next command would read it, "
            f"got {output_uri}"
        )
    fs, paths = place.fs, place.paths
    is_folder = not place.is_file and place.folder == place.path
    if is_folder and (table := table_format(fs, place.path)):
        raise ContractError(
            f"source.uri: expected Parquet files, got the {table} table at {place.uri}, "
            "among whose files are deleted rows; `spips score` reads the table itself"
        )
    if is_folder and f"{place.path}/dataset_dict.json" in paths:
        splits = json.loads(fs.cat_file(f"{place.path}/dataset_dict.json")).get("splits", [])
        raise ContractError(
            f"source.uri: expected one split of a data set, got a folder of splits at {place.uri}: "
            f"{list_first(splits)}"
        )
    if is_folder and f"{place.path}/state.json" in paths:
        return open_saved(fs, place.path, place.uri)
    kinds = {
        "lists": _ending(paths, LIST_SUFFIXES),
        "Parquet files": _ending(paths, PARQUET_SUFFIXES),
        "tars": _ending(paths, TAR_SUFFIXES),
    }
    found = [f"{len(files)} {kind}" for kind, files in kinds.items() if files]
    if len(found) > 1:
        raise ContractError(
            f"source.uri: expected files of one kind, got {' and '.join(found)} at {place.uri}"
        )
    if kinds["Parquet files"]:
        return open_parquet(fs, kinds["Parquet files"], place.uri, place.folder, place.base)
    if kinds["tars"]:
        return open_archives(fs, kinds["tars"], place.uri, place.folder, config)
    if len(kinds["lists"]) == 1:
        return open_list(fs, kinds["lists"][0], place.uri, place.base)
    raise ContractError(_explain_kinds(place, len(kinds["lists"])))


def _find(given: str) -> Place:
    """Return the files of a path, folder or glob.

    Raises:
        ContractError: there is nothing.
    """
    fs, path, uri = open_place("source.uri", given)
    if fs.isdir(path):
        folder, base, found = path, uri, find_files(fs, path)
    elif fs.exists(path):
        return Place(fs, path, uri, path.rpartition("/")[0], uri.rpartition("/")[0], [path])
    elif _WILDCARD.search(path):
        folder, base = (_WILDCARD.split(text, 1)[0].rpartition("/")[0] for text in (path, uri))
        found = [name for name in fs.glob(path) if not fs.isdir(name)]
    else:
        raise ContractError(f"source.uri: expected {KINDS}, got nothing at {uri}")
    visible = [
        name
        for name in found
        if not any(part.startswith(("_", ".")) for part in name.removeprefix(folder).split("/"))
    ]
    return Place(fs, path, uri, folder, base, sorted(visible))


def _ending(paths: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
    return [path for path in paths if path.lower().endswith(suffixes)]


def _explain_kinds(place: Place, num_lists: int) -> str:
    """Return what was expected instead of a folder of lists, of images, or of something else."""
    if num_lists > 1:
        return f"source.uri: expected one list, got {num_lists} at {place.uri}"
    names = [path.removeprefix(f"{place.folder}/") for path in place.paths]
    got = list_first(names) or "no files"
    if _ending(place.paths, tuple(IMAGE_SUFFIXES)):
        return (
            f"source.uri: expected {KINDS}, got images at {place.uri}: {got}; to pair images, give "
            "the folder of the references and the folders of the images to judge"
        )
    return f"source.uri: expected {KINDS}, got {got} at {place.uri}"
