"""Pair the images of folders by their names."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa

from pipeline.manifests.config import FoldersConfig
from pipeline.manifests.source import MAX_NAMED, list_first, open_place
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import STORE_ERRORS, find_files, store_error

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"}
)
"""What the names of images end in, in lower or upper case."""
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".y4m", ".ts"})
Kind = Literal["images", "videos"]
SUFFIXES: dict[Kind, frozenset[str]] = {"images": IMAGE_SUFFIXES, "videos": VIDEO_SUFFIXES}
Key = tuple[str, ...]
"""What the two files of a pair have in common: the path without suffix, or named groups."""
VIDEO_KEY = ("video",)
"""Of videos that are given as single files."""


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, or its videos.

    Attributes:
        name: the model, or "references".
        uri: the folder, absolute.
        images: each image's path inside the folder, by key.
        notes: what was left out.
    """

    name: str
    uri: str
    images: dict[Key, str]
    notes: tuple[str, ...]


def pair_folders(config: FoldersConfig) -> tuple[pa.Table, list[str]]:
    """Return a row for each pair, and notes on the files that are in none.

    Pairs of one reference are next to each other, because a run then decodes it once.

    Raises:
        ContractError: a folder is missing, or has no images or no partner of any reference, or
            several files of one name; all problems are listed.
        FaultError: a store is away.
    """
    expression = re.compile(config.match) if config.match is not None else None
    kind: Kind = "images" if config.frames_every_s is None else "videos"
    named = [_split_name(candidate) for candidate in config.candidates]
    wanted = [("folders.references", "references", str(config.references))]
    wanted += [("folders.candidates", name, uri) for name, uri in named]
    folders, problems = [], _check_names([name for name, _ in named])
    for setting, name, uri in wanted:
        try:
            folders.append(_open_folder(setting, name, uri, expression, kind))
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(*problems)
    references, *candidates = folders
    notes = [note for folder in folders for note in folder.notes]
    for candidate in candidates:
        problems += _check_pairs(references, candidate)
        notes += _list_unpaired(references, candidate)
    if problems:
        raise ContractError(*problems)
    groups = list(expression.groupindex) if expression else []
    rows = _make_rows(references, candidates, groups)
    if kind == "videos":
        names = [id_.partition("/")[2] for id_ in rows["pair_id"].to_pylist()]
        rows = rows.append_column("video", pa.array(names, pa.string()))
    return rows, notes


def _split_name(candidate: str) -> tuple[str, str]:
    """Return the model's name and the folder of FOLDER or NAME=FOLDER."""
    name, separator, folder = candidate.partition("=")
    if separator and name and folder and not re.search(r"[/\\:]", name):
        return name, folder
    last = PurePosixPath(candidate).name
    return (Path(candidate).resolve().name if last in ("", "..") else last), candidate


def _check_names(names: Sequence[str]) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [
        f"folders.candidates: expected different names of models, got {name!r} {names.count(name)} "
        "times; write NAME=FOLDER"
        for name in repeated
    ]


def _open_folder(
    setting: str, name: str, uri: str, expression: re.Pattern[str] | None, kind: Kind
) -> ImageFolder:
    """Return a folder's images, or its videos; a single video has the key VIDEO_KEY.

    Raises:
        ContractError: there is no such folder, it has no images, or several of one key.
        FaultError: its store is away.
    """
    fs, root, base = open_place(setting, uri)
    try:
        if kind == "videos" and fs.isfile(root):
            folder, _, file = base.rpartition("/")
            return ImageFolder(name, folder, {VIDEO_KEY: file}, ())
        if not fs.isdir(root):
            got = "a file" if fs.exists(root) else "nothing"
            raise ContractError(f"{setting}: expected a folder, got {got} at {base}")
        paths = sorted(path[len(root) + 1 :] for path in find_files(fs, root))
    except STORE_ERRORS as error:
        raise store_error(f"{setting}: {base} cannot be read", error) from error
    images: list[str] = []
    others: list[str] = []
    for path in paths:
        (images if _is_of(kind, path) else others).append(path)
    by_key: dict[Key, list[str]] = {}
    unmatched = []
    for path in images:
        key = _find_key(path, expression)
        if key is None:
            unmatched.append(path)
        else:
            by_key.setdefault(key, []).append(path)
    notes = _note(name, others, f"left out, not named as {kind} are")
    notes += _note(name, unmatched, "left out, where folders.match finds nothing")
    problems = _check_images(by_key, images, others, kind)
    if problems:
        raise ContractError(*(f"{setting}: {problem} at {base}" for problem in problems))
    return ImageFolder(name, base, {key: path for key, [path] in by_key.items()}, tuple(notes))


def _is_of(kind: Kind, path: str) -> bool:
    """Return whether a path is an image's or a video's; a Mac's ._a.png is none."""
    is_hidden = path.startswith(".") or "/." in path
    return posixpath.splitext(path)[1].lower() in SUFFIXES[kind] and not is_hidden


def _find_key(path: str, expression: re.Pattern[str] | None) -> Key | None:
    """Return what an image's partners share with it; None if the expression finds nothing.

    Names are compared in Unicode's form NFC: a Mac may write an accent as a character of its own.
    """
    path = unicodedata.normalize("NFC", path)
    if expression is None:
        return (posixpath.splitext(path)[0],)
    found = expression.search(path)
    return tuple(value or "" for value in found.groupdict().values()) if found else None


def _check_images(
    by_key: dict[Key, list[str]], images: Sequence[str], others: Sequence[str], kind: Kind
) -> list[str]:
    if not images:
        got = f"only {list_first(others)}" if others else "none"
        return [f"expected {kind} ({' '.join(sorted(SUFFIXES[kind]))}), got {got}"]
    if not by_key:
        found = list_first(images)
        return [f"expected {kind} that folders.match describes, got none among {found}"]
    problems = []
    repeated = {key: paths for key, paths in by_key.items() if len(paths) > 1}
    for key, paths in islice(repeated.items(), MAX_NAMED):
        problems.append(f"expected one {kind[:-1]} for {_name(key)!r}, got {list_first(paths)}")
    if len(repeated) > MAX_NAMED:
        problems.append(f"expected one image for each name, got several for {len(repeated)} names")
    wrong = [path for path in images if not _is_utf8(path)]
    if wrong:
        shown = list_first(repr(os.fsencode(path)) for path in wrong)
        problems.append(f"expected names in UTF-8, got {shown}")
    return problems


def _is_utf8(path: str) -> bool:
    """Return whether a name can be written; Python reads other names with lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_pairs(references: ImageFolder, candidate: ImageFolder) -> list[str]:
    if (candidate.uri, candidate.images) == (references.uri, references.images):
        return [
            f"folders.candidates: expected other folders than the references', got {candidate.uri}"
        ]
    if references.images.keys() & candidate.images.keys():
        return []
    got, wanted = (next(iter(folder.images)) for folder in (candidate, references))
    return [
        f"folders.candidates: expected names of references, such as {_name(wanted)!r}, got none at "
        f"{candidate.uri}, but {_name(got)!r}; folders.match can say what the names have in common"
    ]


def _list_unpaired(references: ImageFolder, candidate: ImageFolder) -> list[str]:
    """Return notes on the images of each side without one on the other."""
    missing = [path for key, path in references.images.items() if key not in candidate.images]
    extra = [path for key, path in candidate.images.items() if key not in references.images]
    return [
        *_note(candidate.name, missing, "of references left out, without a partner here"),
        *_note(candidate.name, extra, "left out, without a reference"),
    ]


def _note(name: str, paths: Sequence[str], what: str) -> list[str]:
    count = f"{len(paths):,} file{'s' * (len(paths) > 1)}"
    return [f"{name}: {count} {what}: {list_first(paths)}"] if paths else []


def _name(key: Key) -> str:
    return "/".join(key)


def _make_rows(
    references: ImageFolder, candidates: Sequence[ImageFolder], groups: Sequence[str]
) -> pa.Table:
    pairs = [
        (key, path, candidate)
        for key, path in sorted(references.images.items())
        for candidate in candidates
        if key in candidate.images
    ]
    columns = {
        "pair_id": [f"{candidate.name}/{_name(key)}" for key, _, candidate in pairs],
        "reference_uri": [f"{references.uri}/{path}" for _, path, _ in pairs],
        "distorted_uri": [
            f"{candidate.uri}/{candidate.images[key]}" for key, _, candidate in pairs
        ],
        "model": [candidate.name for _, _, candidate in pairs],
    } | {group: [key[index] for key, _, _ in pairs] for index, group in enumerate(groups)}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
