"""The load stage: each row gets pixels, or an earlier run's scores, or a status and an error."""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status, is_text, loaded_schema
from pipeline.runs.uris import one_line, redact_uri, shorten
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.contents import Source, get_contents, sources_of
from pipeline.scoring.images.decode import DecodeProcess, decode_within_limits, fit_pair
from pipeline.scoring.resources import LOADER_KEPT_BYTES, ROWS_PER_FETCH, keep_freed_memory
from pipeline.scoring.reuse.known_scores import UNKNOWN, KnownScores
from pipeline.scoring.reuse.recall import Digests, Recall, SourcePair, take_tags
from pipeline.scoring.stages.suspects import is_repeated


@dataclass(frozen=True)
class LoadedPair:
    """The outcome of loading a row: the pixels of both images, or a status with its error.

    Attributes:
        status: ok, or the reason why the pair has no pixels.
        error: "" when ok, else one line.
        size: height and width in pixels; None unless ok.
        pixels: RGB bytes of reference and distorted, H x W x 3; None unless ok.
        fetch_retries: how often its images were fetched again.
        sha256: of the bytes of reference and distorted image; None where they were not read.
        known_row: row of the earlier run's scores, instead of pixels; or UNKNOWN.
    """

    status: Status
    error: str = ""
    size: tuple[int, int] | None = None
    pixels: tuple[bytes, bytes] | None = None
    fetch_retries: int = 0
    sha256: Digests = (None, None)
    known_row: int = UNKNOWN

    @property
    def num_pixels(self) -> int:
        """Pixels of one image that the scorer needs."""
        return self.size[0] * self.size[1] if self.size and self.pixels else 0


@dataclass
class Images:
    """The images of a few rows; rows that name the same image share one fetch and one decoding.

    Attributes:
        decode: makes RGB of an encoded image, or raises a RowError.
        contents: encoded image, or the reason why there is none, by source.
        uses: number of uses that are left of each image.
        decoded: decoded images that later rows need.
        packed: pixels of references that later rows need, at their scored size, each with the size
            of the distorted image beside which it was fitted: a crop depends on both.
    """

    decode: Callable[[bytes], Image.Image]
    contents: dict[Source, bytes | RowError]
    uses: Counter[Source]
    decoded: dict[Source, Image.Image] = field(default_factory=dict)
    packed: dict[Source, tuple[tuple[int, int], bytes]] = field(default_factory=dict)

    def take(self, source: Source) -> Image.Image:
        """Return a cell's image as RGB, and drop it after its last use.

        Raises:
            RowError: the image cannot be fetched or decoded.
        """
        content = self.contents[source]
        try:
            if isinstance(content, RowError):
                raise RowError(content.status, str(content))
            if source not in self.decoded:
                self.decoded[source] = self.decode(content)
            return self.decoded[source]
        finally:
            self.release(source)

    def release(self, source: Source) -> None:
        """Drop an image after its last use."""
        self.uses[source] -= 1
        if not self.uses[source]:
            self.contents.pop(source)
            self.decoded.pop(source, None)

    def pack(self, source: Source, reference: Image.Image, beside: tuple[int, int]) -> bytes:
        """Return a reference's pixels at its scored size; rows share them while nothing differs.

        Args:
            source: of the reference.
            reference: as it was fitted to the distorted image.
            beside: size of the distorted image as it was decoded.
        """
        size, pixels = self.packed.pop(source, (None, b""))
        if size != beside:
            pixels = reference.tobytes()
        if self.uses[source]:
            self.packed[source] = beside, pixels
        return pixels


@dataclass(frozen=True)
class PairLoader:
    """The load stage: a callable from manifest rows to blocks of loaded rows.

    Reads the reference and distorted columns. Adds height_px, width_px, status, error,
    fetch_retries, the columns of IMAGE_FIELDS, reference_pixels and distorted_pixels; and where an
    earlier run has scored the same two images, instead of pixels, its scores and reused_from. Drops
    image columns that hold bytes. Each row in is one row out.

    Attributes:
        rules: which images are accepted, and their size.
        image_columns: names of the reference and distorted columns.
        pass_through: schema of the manifest's columns in the results.
        pixels_per_block: a block is complete when it holds this many pixels (pairs x H x W).
        get_known: returns the scores of an earlier run; None if there is none.
    """

    rules: ImagesConfig
    image_columns: tuple[str, str]
    pass_through: pa.Schema
    pixels_per_block: int
    get_known: Callable[[], KnownScores] | None = None

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Load rows in a worker process that does nothing else."""
        keep_freed_memory(LOADER_KEPT_BYTES)
        # If Ray repeats this task, one of its rows may have killed the process before.
        load = self.load_apart if is_repeated() else self.load
        yield from load(rows, recall=self.recall(rows))

    def recall(self, rows: pa.Table) -> Recall:
        """Return what is known of some rows' images; asks their stores for tags."""
        tags = take_tags([rows.column(name) for name in self.image_columns], self.rules)
        return Recall(tags, self.get_known() if self.get_known else None)

    def load(
        self,
        rows: pa.Table,
        decode: Callable[[bytes], Image.Image] | None = None,
        recall: Recall | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the loaded rows in blocks: first those that an earlier run knows by their tags.

        Args:
            rows: the rows.
            decode: makes an image of a file's bytes; None decodes in this process.
            recall: what is known of their images already.
        """
        decode = decode or partial(decode_within_limits, rules=self.rules)
        recall = recall or Recall()
        known_rows = recall.find_by_tags(self._sources(rows))
        is_known = known_rows != UNKNOWN
        if is_known.any():
            yield self._reuse_by_tags(rows.filter(pa.array(is_known)), known_rows[is_known], recall)
            rows = rows.filter(pa.array(~is_known))
        for start in range(0, rows.num_rows, ROWS_PER_FETCH):
            yield from self._load_some(rows.slice(start, ROWS_PER_FETCH), decode, recall)

    def load_apart(self, rows: pa.Table, recall: Recall | None = None) -> Iterator[pa.Table]:
        """Yield the same, but decode in a process of its own, which a row can kill."""
        with DecodeProcess(self.rules) as process:
            yield from self.load(rows, process.decode, recall)

    def _sources(self, rows: pa.Table) -> list[SourcePair]:
        columns = (sources_of(rows.column(name)) for name in self.image_columns)
        return list(zip(*columns, strict=True))

    def _reuse_by_tags(
        self, rows: pa.Table, known_rows: NDArray[np.int64], recall: Recall
    ) -> pa.Table:
        """Return rows with scores of an earlier run, whose images are not fetched."""
        known = cast("KnownScores", recall.known)
        pairs = [
            LoadedPair(Status.OK, "", known.size_of(row), sha256=sha256, known_row=row)
            for row, sha256 in zip(known_rows, known.images_of(known_rows), strict=True)
        ]
        return self._block(rows, pairs, recall)

    def _load_some(
        self, rows: pa.Table, decode: Callable[[bytes], Image.Image], recall: Recall
    ) -> Iterator[pa.Table]:
        sources = self._sources(rows)
        uses = Counter(source for pair in sources for source in pair)
        contents, retries = get_contents(list(uses), self.rules)
        hashes = {
            source: hashlib.sha256(content).hexdigest()
            for source, content in contents.items()
            if isinstance(content, bytes)
        }
        sha256 = [
            (hashes.get(reference), hashes.get(distorted)) for reference, distorted in sources
        ]
        known_rows = recall.find_by_content(sha256)
        images = Images(decode, contents, uses)
        start, pixels, pairs = 0, 0, []
        for index, pair_sources in enumerate(sources):
            if known_rows[index] == UNKNOWN:
                pair = self._load_pair(images, pair_sources)
            else:
                pair = self._reuse_by_content(images, pair_sources, known_rows[index], recall)
            # The first row that needs an image reports its retries, so that the sum is right.
            num_retries = sum(retries.pop(source, 0) for source in pair_sources)
            pairs.append(replace(pair, fetch_retries=num_retries, sha256=sha256[index]))
            pixels += pair.num_pixels
            if pixels >= self.pixels_per_block:
                yield self._block(rows.slice(start, len(pairs)), pairs, recall)
                start, pixels, pairs = start + len(pairs), 0, []
        if pairs:
            yield self._block(rows.slice(start), pairs, recall)

    @staticmethod
    def _reuse_by_content(
        images: Images, sources: SourcePair, row: int, recall: Recall
    ) -> LoadedPair:
        for source in sources:
            images.release(source)
        size = cast("KnownScores", recall.known).size_of(row)
        return LoadedPair(Status.OK, "", size, known_row=row)

    def _load_pair(self, images: Images, sources: tuple[Source, Source]) -> LoadedPair:
        shown = [
            shorten(redact_uri(source))
            if source and isinstance(source, str)
            else f"column {column}"
            for column, source in zip(self.image_columns, sources, strict=True)
        ]
        decoded: list[Image.Image] = []
        problems: list[LoadedPair] = []
        for role, source, where in zip(("reference", "distorted"), sources, shown, strict=True):
            try:
                decoded.append(images.take(source))
            except RowError as error:
                problems.append(LoadedPair(error.status, f"{role}: {error} ({where})"))
        if problems:
            return problems[0]
        try:
            reference, distorted = fit_pair(decoded[0], decoded[1], self.rules)
        except RowError as error:
            return LoadedPair(error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference.height, reference.width
        pixels = images.pack(sources[0], reference, decoded[1].size), distorted.tobytes()
        return LoadedPair(Status.OK, "", size, pixels)

    def _block(self, rows: pa.Table, pairs: Sequence[LoadedPair], recall: Recall) -> pa.Table:
        columns = {field.name: rows.column(field.name) for field in self.pass_through}
        for name in self.image_columns:
            if name in columns and is_text(columns[name].type):
                shown = [redact_uri(uri) if uri else uri for uri in columns[name].to_pylist()]
                columns[name] = pa.array(shown, columns[name].type)
        columns |= recall.columns(
            self._sources(rows),
            [pair.sha256 for pair in pairs],
            [pair.known_row for pair in pairs],
        )
        columns["height_px"], columns["width_px"] = (
            pa.array([pair.size[axis] if pair.size else None for pair in pairs], pa.int32())
            for axis in (0, 1)
        )
        columns["status"] = pa.array([pair.status.value for pair in pairs], pa.string())
        columns["error"] = pa.array([one_line(pair.error) for pair in pairs], pa.string())
        columns["fetch_retries"] = pa.array([pair.fetch_retries for pair in pairs], pa.int32())
        for index, name in enumerate(("reference_pixels", "distorted_pixels")):
            values = [pair.pixels[index] if pair.pixels else None for pair in pairs]
            columns[name] = pa.array(values, pa.large_binary())
        return pa.table(columns, schema=loaded_schema(self.pass_through))


def load_pair(reference: str, distorted: str, rules: ImagesConfig) -> pa.Table:
    """Load one pair as the load stage does; return a row with pixels, or a status and error."""
    (row,) = load_pairs([(reference, distorted)], rules)
    return row


def load_pairs(
    pairs: Iterable[tuple[str, str]], rules: ImagesConfig
) -> Generator[pa.Table, None, None]:
    """Load pairs of reference and distorted URIs one after the other; see `load_pair`."""
    names = ("reference_uri", "distorted_uri")
    schema = pa.schema([(name, pa.string()) for name in names])
    loader = PairLoader(rules, names, schema, pixels_per_block=1)
    with DecodeProcess(rules) as process:
        for pair in pairs:
            row = pa.table([[uri] for uri in pair], schema=schema)
            yield from loader.load(row, process.decode)
