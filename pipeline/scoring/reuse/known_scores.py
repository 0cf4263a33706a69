"""The scores of an earlier run, by the content of images and by what their store says of them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import REUSE_FIELD, SCORE_FIELDS, SIZE_FIELDS, Status
from pipeline.scoring.resources import ID_ROWS_PER_READ

UNKNOWN = -1
SHA256_BYTES, NAME_BYTES = 32, 16
Rows = NDArray[np.int64]
Digests = NDArray[np.bytes_]


@dataclass(frozen=True)
class KnownScores:
    """Scores of pairs of images, about 154 bytes per pair, fewer where pairs share images.

    Arrays only, so that Ray's processes share one copy. The number of an image is its place in
    `images`, the number of a row is its place in `pairs`.

    Attributes:
        images: (images,) sha256 of each image, sorted.
        names: (names,) hashes of an image's URI and tag, sorted.
        images_of_names: (names,) number of the image that each one had.
        pairs: (rows,) number of the reference times 2^32 plus number of the distorted, sorted.
        columns: (rows,) float32 scores and int32 sizes by column, without columns of nulls.
        run_ids: the runs that computed the scores.
        run_numbers: (rows,) the place of each row's run in `run_ids`.
    """

    images: Digests
    names: Digests
    images_of_names: NDArray[np.int32]
    pairs: NDArray[np.uint64]
    columns: dict[str, NDArray[np.float32] | NDArray[np.int32]]
    run_ids: list[str]
    run_numbers: NDArray[np.int16]

    def find_tags(self, tags: Mapping[str, str | None]) -> dict[str, int]:
        """Return the number of each image, by URI, that had the same URI and tag."""
        named = [(uri, tag) for uri, tag in tags.items() if tag is not None]
        places = _find(self.names, _hash_names(named))
        return {
            uri: int(self.images_of_names[place])
            for (uri, _), place in zip(named, places, strict=True)
            if place != UNKNOWN
        }

    def find_contents(self, digests: Sequence[bytes]) -> Rows:
        """Return the numbers of images, by their sha256, UNKNOWN where there is none."""
        return _find(self.images, np.array(digests, f"S{SHA256_BYTES}"))

    def find_pairs(self, references: Rows, distorted: Rows) -> Rows:
        """Return the rows of pairs, by the numbers of their images, UNKNOWN where there is none."""
        rows = _find(self.pairs, _join(references, distorted))
        return np.where((references == UNKNOWN) | (distorted == UNKNOWN), UNKNOWN, rows)

    def images_of(self, rows: Rows) -> list[tuple[str, str]]:
        """Return the sha256 of reference and distorted image of each row, as text."""
        pairs = self.pairs[rows]
        numbers = (pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF))
        return list(zip(*(map(self.sha256_of, each) for each in numbers), strict=True))

    def sha256_of(self, image: int) -> str:
        """Return the sha256 of an image, by its number, as text."""
        # NumPy leaves out the zeros at the end of a value.
        return bytes(self.images[image]).ljust(SHA256_BYTES, b"\0").hex()

    def size_of(self, row: int) -> tuple[int, int]:
        """Return height and width in pixels at which a row was scored."""
        height_px, width_px = (int(self.columns[field.name][row]) for field in SIZE_FIELDS)
        return height_px, width_px

    def take(self, rows: Rows) -> dict[str, pa.Array]:
        """Return the columns of scores and reused_from; null where a row is UNKNOWN."""
        is_unknown = rows == UNKNOWN
        found = {}
        for field in SCORE_FIELDS:
            values = self.columns.get(field.name)
            found[field.name] = (
                pa.nulls(len(rows), field.type)
                if values is None or not len(values)
                else pa.array(values[rows], field.type, mask=is_unknown)
            )
        numbers = self.run_numbers[rows] if len(self.pairs) else np.zeros(len(rows), np.int16)
        found[REUSE_FIELD.name] = pa.array(self.run_ids, pa.string()).take(
            pa.array(numbers, mask=is_unknown)
        )
        return found


def _find(values: NDArray[np.generic], wanted: NDArray[np.generic]) -> Rows:
    """Return the place of each wanted value among sorted ones, UNKNOWN where it is not there."""
    if not len(values):
        return np.full(len(wanted), UNKNOWN)
    places = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return np.where(values[places] == wanted, places, UNKNOWN)


def _join(references: Rows, distorted: Rows) -> NDArray[np.uint64]:
    return (references.astype(np.uint64) << np.uint64(32)) | distorted.astype(np.uint32)


def _hash_names(named: Iterable[tuple[str, str]]) -> Digests:
    digests = (
        hashlib.blake2b(f"{tag}\0{uri}".encode(), digest_size=NAME_BYTES).digest()
        for uri, tag in named
    )
    return np.frombuffer(b"".join(digests), f"S{NAME_BYTES}")


def read_known_scores(run: FinishedRun) -> KnownScores:
    """Read the scores of a finished run's ok rows, batch by batch.

    Rows of a retry are left out if they were scored with other kernels than those of the first
    attempt, because the last bits of their scores may differ.

    Raises:
        OSError, or another of STORE_ERRORS: a result file is lost, or the store fails.
    """
    images = _read_images(run)
    names, images_of_names = _read_names(run, images)
    fields = (*SCORE_FIELDS, *SIZE_FIELDS)
    num_rows = sum(len(batch) for batch in _scan(run, ["status"]))
    pairs, run_numbers = np.empty(num_rows, np.uint64), np.empty(num_rows, np.int16)
    columns = {field.name: np.empty(num_rows, field.type.to_pandas_dtype()) for field in fields}
    run_ids: dict[str, int] = {}
    start = 0
    for batch in _scan(run, [*columns, *SHA256, REUSE_FIELD.name]):
        here = slice(start, start + len(batch))
        start += len(batch)
        pairs[here] = _join(*(_find(images, _to_digests(batch[name])) for name in SHA256))
        for name, values in columns.items():
            values[here] = batch[name].to_numpy(zero_copy_only=False)
        ids = batch[REUSE_FIELD.name].fill_null(run.run_id).dictionary_encode()
        numbers = [run_ids.setdefault(id_, len(run_ids)) for id_ in ids.dictionary.to_pylist()]
        run_numbers[here] = np.array(numbers, np.int16)[ids.indices.to_numpy()]
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    is_first = np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
    order, pairs = order[is_first], pairs[is_first]
    for name in list(columns):
        values = columns.pop(name)[order]
        if not np.isnan(values).all():  # else the run's model does not fill it
            columns[name] = values
    return KnownScores(
        images, names, images_of_names, pairs, columns, list(run_ids), run_numbers[order]
    )


SHA256 = ("reference_sha256", "distorted_sha256")
TAGS = ("reference_tag", "distorted_tag")


def _read_images(run: FinishedRun) -> Digests:
    """Return the sorted sha256 of the images of a run's ok rows."""
    parts = [np.empty(0, f"S{SHA256_BYTES}")]
    for batch in _scan(run, SHA256):
        parts += [np.unique(_to_digests(batch[name])) for name in SHA256]
    images = np.concatenate(parts)
    parts.clear()
    images.sort()
    unique: Digests = images[np.append(True, images[1:] != images[:-1])[: len(images)]]
    return unique


def _read_names(run: FinishedRun, images: Digests) -> tuple[Digests, NDArray[np.int32]]:
    """Return the sorted hashes of URIs with their tags, and the number of each one's image.

    A name that has had two contents is left out.
    """
    hashes, numbers = [np.empty(0, f"S{NAME_BYTES}")], [np.empty(0, np.int32)]
    for batch in _scan(run, [*SHA256, *TAGS, *run.image_columns]) if run.image_columns else ():
        for uri, tag, sha256 in zip(run.image_columns or (), TAGS, SHA256, strict=True):
            named = pa.table([batch[uri], batch[tag], batch[sha256]], ["uri", "tag", "sha256"])
            named = named.filter(pc.is_valid(named["tag"])).group_by(["uri", "tag", "sha256"])
            unique = named.aggregate([])
            uris, tags = (unique[name].to_pylist() for name in ("uri", "tag"))
            hashes.append(_hash_names(zip(uris, tags, strict=True)))
            numbers.append(_find(images, _to_digests(unique["sha256"])).astype(np.int32))
    names, images_of_names = np.concatenate(hashes), np.concatenate(numbers)
    hashes.clear()
    numbers.clear()
    order = np.argsort(names, kind="stable")
    names, images_of_names = names[order], images_of_names[order]
    is_same = names[1:] == names[:-1]
    is_other = is_same & (images_of_names[1:] != images_of_names[:-1])
    is_kept = np.append(True, ~is_same)[: len(names)] & ~np.isin(names, names[1:][is_other])
    return names[is_kept], images_of_names[is_kept]


def _to_digests(column: pa.Array) -> Digests:
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), f"S{SHA256_BYTES}")


def _scan(run: FinishedRun, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of the rows whose scores can be used again."""
    kernels = [kernels_of(attempt.scorers) for attempt in run.record.attempts]
    numbers = [number for number, kernel in enumerate(kernels, 1) if kernel == kernels[0]]
    is_usable = (pc.field("status") == Status.OK) & pc.field("run_attempt").isin(numbers)
    for name in SHA256:
        is_usable &= pc.field(name).is_valid()
    yield from run.scan(columns, is_usable, ID_ROWS_PER_READ)


def kernels_of(scorers: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether scorers used GPUs and whether they compiled: it changes a score's last bits.

    Args:
        scorers: as run.json has them.
    """
    return bool(scorers.get("gpus_per_scorer")), bool(scorers.get("compile_kernels"))
