"""What a load task knows of its images without decoding them: tags, hashes and earlier scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.runs.schema import IMAGE_FIELDS, REUSE_FIELD, SCORE_FIELDS, is_bytes
from pipeline.runs.uris import is_local
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.contents import Source, refuse, sources_of
from pipeline.scoring.images.tags import tags_of
from pipeline.scoring.reuse.known_scores import UNKNOWN, KnownScores

SourcePair = tuple[Source, Source]
"""The cells of a row: reference and distorted image."""
Digests = tuple[str | None, str | None]
"""The sha256 of their bytes; None where they were not read."""


@dataclass(frozen=True)
class Recall:
    """What is known of a few rows' images.

    Attributes:
        tags: of URIs, taken before anything is fetched: an image that changes in between has an old
            tag, so that a later run fetches it again.
        known: the scores of an earlier run; None if there is none.
    """

    tags: Mapping[str, str | None] = field(default_factory=dict)
    known: KnownScores | None = None

    def find_by_tags(self, pairs: Sequence[SourcePair]) -> NDArray[np.int64]:
        """Return the known row of each pair whose images have the URIs and tags of that row."""
        if self.known is None:
            return np.full(len(pairs), UNKNOWN)
        numbers = cast("Mapping[Source, int]", self.known.find_tags(self.tags))
        images = np.array(
            [[numbers.get(source, UNKNOWN) for source in pair] for pair in pairs], np.int64
        ).reshape(-1, 2)
        return self.known.find_pairs(images[:, 0], images[:, 1])

    def find_by_content(self, pairs: Sequence[Digests]) -> NDArray[np.int64]:
        """Return the known row of each pair whose images have the bytes of that row's."""
        if self.known is None:
            return np.full(len(pairs), UNKNOWN)
        digests = [[bytes.fromhex(sha256 or "") for sha256 in pair] for pair in pairs]
        images = (self.known.find_contents(list(each)) for each in zip(*digests, strict=True))
        return self.known.find_pairs(*images)

    def columns(
        self, pairs: Sequence[SourcePair], sha256: Sequence[Digests], known_rows: Sequence[int]
    ) -> dict[str, pa.Array]:
        """Return the columns of IMAGE_FIELDS, and the scores and reused_from of known rows."""
        tags = [tuple(map(self._tag_of, pair)) for pair in pairs]
        values = [*zip(*sha256, strict=True), *zip(*tags, strict=True)]
        columns = {
            one.name: pa.array(each, one.type)
            for one, each in zip(IMAGE_FIELDS, values, strict=True)
        }
        if self.known is None:
            fields = (*SCORE_FIELDS, REUSE_FIELD)
            return columns | {one.name: pa.nulls(len(pairs), one.type) for one in fields}
        return columns | self.known.take(np.array(known_rows, np.int64))

    def _tag_of(self, source: Source) -> str | None:
        return self.tags.get(source) if isinstance(source, str) else None


def take_tags(
    columns: Sequence[pa.Array], rules: ImagesConfig, *, only_local: bool = False
) -> dict[str, str | None]:
    """Return the tags of the URIs in some columns that may be opened and have no hidden secrets.

    Args:
        columns: of URIs; others are left out.
        rules: which images are accepted.
        only_local: leave out URIs of other stores.
    """
    sources = {
        source for column in columns if not is_bytes(column.type) for source in sources_of(column)
    }
    uris = {source for source in sources if isinstance(source, str) and source}
    return tags_of(
        sorted(
            uri
            for uri in uris
            if "***" not in uri and (is_local(uri) or not only_local) and refuse(uri, rules) is None
        )
    )
