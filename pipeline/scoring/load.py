"""The load stage: fetch and decode pairs; each row gets pixels, or a status and an error."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status, is_image_struct, is_text, loaded_schema
from pipeline.runs.storage import describe
from pipeline.runs.uris import (
    explain_relative,
    is_allowed,
    is_chain,
    is_relative,
    one_line,
    redact_as,
    redact_uri,
    shorten,
)
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.decode import DecodeProcess, decode_within_limits, fit_pair
from pipeline.scoring.fetch import Fetched, fetch
from pipeline.scoring.resources import LOADER_KEPT_BYTES, ROWS_PER_FETCH, keep_freed_memory
from pipeline.scoring.suspects import is_repeated

Source = str | bytes | None
"""A manifest's cell: a URI, an encoded image, or nothing."""


@dataclass(frozen=True)
class LoadedPair:
    """The outcome of loading a row: the pixels of both images, or a status with its error.

    Attributes:
        status: ok, or the reason why the pair has no pixels.
        error: "" when ok, else one line.
        size: height and width in pixels; None unless ok.
        pixels: RGB bytes of reference and distorted, H x W x 3; None unless ok.
        fetch_retries: how often its images were fetched again.
    """

    status: Status
    error: str = ""
    size: tuple[int, int] | None = None
    pixels: tuple[bytes, bytes] | None = None
    fetch_retries: int = 0


@dataclass
class Images:
    """The images of a few rows; rows that name the same image share one fetch and one decoding.

    Attributes:
        decode: makes RGB of an encoded image, or raises a RowError.
        contents: encoded image, or the reason why there is none, by source.
        uses: number of cells that still need each source.
        decoded: decoded images that later rows need.
        packed: pixels of references, at their scored size, that later rows need.
    """

    decode: Callable[[bytes], Image.Image]
    contents: dict[Source, bytes | RowError]
    uses: Counter[Source]
    decoded: dict[Source, Image.Image] = field(default_factory=dict)
    packed: dict[Source, bytes] = field(default_factory=dict)

    def take(self, source: Source) -> Image.Image:
        """Return a cell's image as RGB, and drop it after its last use.

        Raises:
            RowError: the image cannot be fetched or decoded.
        """
        self.uses[source] -= 1
        content = self.contents[source]
        try:
            if isinstance(content, RowError):
                raise RowError(content.status, str(content))
            if source not in self.decoded:
                self.decoded[source] = self.decode(content)
            return self.decoded[source]
        finally:
            if not self.uses[source]:
                self.contents.pop(source)
                self.decoded.pop(source, None)

    def pack(self, source: Source, reference: Image.Image) -> bytes:
        """Return a reference's pixels at its scored size, which all its rows share."""
        pixels = self.packed.pop(source, None) or reference.tobytes()
        if self.uses[source]:
            self.packed[source] = pixels
        return pixels


@dataclass(frozen=True)
class PairLoader:
    """The load stage: a callable from manifest rows to blocks of loaded rows.

    Reads the reference and distorted columns. Adds height_px, width_px, status, error,
    fetch_retries, reference_pixels and distorted_pixels. Drops image columns that hold bytes.
    Each row in is one row out.

    Attributes:
        rules: which images are accepted, and their size.
        image_columns: names of the reference and distorted columns.
        pass_through: schema of the manifest's columns in the results.
        pixels_per_block: a block is complete when it holds this many pixels (pairs x H x W).
    """

    rules: ImagesConfig
    image_columns: tuple[str, str]
    pass_through: pa.Schema
    pixels_per_block: int

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Load rows in a worker process that does nothing else."""
        keep_freed_memory(LOADER_KEPT_BYTES)
        # When it is repeated, one of these rows may have killed the process that had them before.
        yield from self.load_apart(rows) if is_repeated() else self.load(rows)

    def load(
        self, rows: pa.Table, decode: Callable[[bytes], Image.Image] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the loaded rows in blocks, in their order.

        Args:
            rows: the rows.
            decode: makes an image of a file's bytes; None decodes in this process.
        """
        decode = decode or partial(decode_within_limits, rules=self.rules)
        for start in range(0, rows.num_rows, ROWS_PER_FETCH):
            yield from self._load_some(rows.slice(start, ROWS_PER_FETCH), decode)

    def load_apart(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Yield the same, but decode in a process of its own, which a row can kill."""
        with DecodeProcess(self.rules) as process:
            yield from self.load(rows, process.decode)

    def _load_some(
        self, rows: pa.Table, decode: Callable[[bytes], Image.Image]
    ) -> Iterator[pa.Table]:
        references, distorted = (_sources(rows.column(name)) for name in self.image_columns)
        uses: Counter[Source] = Counter(references + distorted)
        contents, retries = self._fetch(list(uses))
        images = Images(decode, contents, uses)
        start, pixels, pairs = 0, 0, []
        for sources in zip(references, distorted, strict=True):
            pair = self._load_pair(images, sources)
            # The first row that needs an image reports its retries, so that the sum is right.
            pair = replace(pair, fetch_retries=sum(retries.pop(source, 0) for source in sources))
            pairs.append(pair)
            pixels += pair.size[0] * pair.size[1] if pair.size else 0
            if pixels >= self.pixels_per_block:
                yield self._block(rows.slice(start, len(pairs)), pairs)
                start, pixels, pairs = start + len(pairs), 0, []
        if pairs:
            yield self._block(rows.slice(start), pairs)

    def _fetch(
        self, sources: Sequence[Source]
    ) -> tuple[dict[Source, bytes | RowError], dict[Source, int]]:
        """Return each source's bytes or the reason why there are none, and each URI's retries."""
        contents: dict[Source, bytes | RowError] = {}
        uris = []
        for source in sources:
            if isinstance(source, bytes):
                contents[source] = source
            elif source:
                refused = self._refuse(source)
                if refused is None:
                    uris.append(source)
                else:
                    contents[source] = refused
            else:
                got = "null" if source is None else "nothing"
                contents[source] = RowError(
                    Status.MISSING, f"expected a URI or an image, got {got}"
                )
        fetched = dict(zip(uris, fetch(uris, self.rules.max_bytes), strict=True))
        contents |= {uri: _content(uri, one) for uri, one in fetched.items()}
        for source, content in contents.items():
            if isinstance(content, bytes) and len(content) > self.rules.max_bytes:
                contents[source] = RowError(
                    Status.TOO_LARGE,
                    f"expected at most {self.rules.max_bytes} bytes (images.max_bytes), got more",
                )
        return contents, {uri: one.num_retries for uri, one in fetched.items()}

    def _refuse(self, uri: str) -> RowError | None:
        """Return the reason why a URI must not be fetched, if there is one."""
        if uri.startswith("data:"):
            return RowError(
                Status.UNREADABLE,
                "expected a URI or an absolute path, got a data: URI; give a column of bytes",
            )
        if is_relative(uri):
            return RowError(Status.UNREADABLE, explain_relative(uri))
        if is_chain(uri):  # no limit would hold for the inner store
            return RowError(
                Status.FORBIDDEN, "expected a URI of one store, got a chain of several (::)"
            )
        prefixes = self.rules.allowed_uri_prefixes
        if prefixes is not None and not is_allowed(uri, prefixes):
            return RowError(
                Status.FORBIDDEN,
                "expected a URI under images.allowed_uri_prefixes, got one outside",
            )
        return None

    def _load_pair(self, images: Images, sources: tuple[Source, Source]) -> LoadedPair:
        shown = [
            shorten(redact_uri(source)) if isinstance(source, str) else f"column {column}"
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
        pixels = images.pack(sources[0], reference), distorted.tobytes()
        return LoadedPair(Status.OK, "", size, pixels)

    def _block(self, rows: pa.Table, pairs: Sequence[LoadedPair]) -> pa.Table:
        columns = {field.name: rows.column(field.name) for field in self.pass_through}
        for name in self.image_columns:
            if name in columns and is_text(columns[name].type):
                shown = [redact_uri(uri) if uri else uri for uri in columns[name].to_pylist()]
                columns[name] = pa.array(shown, columns[name].type)
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


def _sources(images: pa.ChunkedArray) -> list[Source]:
    """Return the cells of an image column; of a struct its bytes, or else its path."""
    cells: list[Any] = images.to_pylist()
    if not is_image_struct(images.type):
        return cells
    return [cell and (cell["path"] if cell["bytes"] is None else cell["bytes"]) for cell in cells]


def _content(uri: str, fetched: Fetched) -> bytes | RowError:
    """Return an image's bytes, or the reason why it could not be fetched."""
    error = fetched.content
    if isinstance(error, bytes):
        return error
    if isinstance(error, FileNotFoundError):
        return RowError(Status.MISSING, "expected an image, got no object")
    got = shorten(redact_as(describe(error), uri))
    if isinstance(error, PermissionError):
        return RowError(Status.FORBIDDEN, f"expected read access, got {got}")
    tries = f" in {fetched.num_retries + 1} tries" if fetched.num_retries else ""
    return RowError(Status.UNREADABLE, f"expected readable bytes, got {got}{tries}")
