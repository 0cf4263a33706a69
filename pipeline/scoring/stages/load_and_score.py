"""The stages load and score in one process, for images that need no waiting for a store.

A process that loads beside each scorer would share its CPU, and Ray would carry the pixels.
"""

from typing import Any

import pyarrow as pa

from pipeline.scoring.images.decode import DecodeProcess
from pipeline.scoring.stages.load import PairLoader
from pipeline.scoring.stages.score import PairScorer
from pipeline.scoring.stages.suspects import is_repeated


class LoadingPairScorer(PairScorer):
    """Both stages, a callable from manifest rows to their results. Each row in is one row out."""

    def __init__(self, loader: PairLoader, **arguments: Any) -> None:
        """Load the model.

        Args:
            loader: the load stage.
            arguments: of `PairScorer`.
        """
        super().__init__(**arguments)
        self.loader = loader
        # Images that killed one scorer must not kill its successors: a process decodes for these.
        self.decode = DecodeProcess(loader.rules).decode if is_repeated() else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the results of rows, in the order in which the load stage yields them."""
        score = self.choose_score_function()
        blocks = self.loader.load(rows, self.decode, self.loader.recall(rows))
        scored = [score(block) for block in blocks]  # none if there are no rows
        return self.count_rows(pa.concat_tables([self.schema.empty_table(), *scored]))
