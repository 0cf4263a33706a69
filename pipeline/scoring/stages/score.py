"""The score stage: where pipeline/scoring runs the model."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.runs.errors import RowError
from pipeline.runs.schema import REUSE_FIELD, SCORE_FIELDS, Status, result_schema
from pipeline.runs.storage import describe
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.resources import (
    BLOCKS_IN_FLIGHT,
    PIXELS_PER_CPU_BATCH,
    SCORES_KEPT,
)
from pipeline.scoring.reuse.known_scores import SHA256
from pipeline.scoring.stages.live_metrics import RowCounter
from pipeline.scoring.stages.model import prepare_model
from pipeline.scoring.stages.pixels import images_of
from pipeline.scoring.stages.suspects import Suspects, is_repeated
from spips_core import SPIPS
from spips_core.config import STREAMS
from spips_core.reference_reuse import PairEncoder

MEASURES = {
    "spips_score": "score", "expected_dmos": "expected_dmos", "tradition_score": "tradition",
    "percept_score": "percept", "semantic_score": "semantic", "psnr_db": "psnr_db", "ssim": "ssim",
    "ms_ssim": "ms_ssim", "lpips": "lpips",
}  # fmt: skip
"""Attribute of `Scores` for each result column."""


def measures_of(model: SPIPS) -> dict[str, str]:
    """Return the entries of MEASURES that a model fills."""
    left_out = set(STREAMS) - set(model.config.streams)
    if model.dmos_scale is None:
        left_out.add("expected_dmos")
    if model.lpips is None:
        left_out.add("lpips")
    return {column: name for column, name in MEASURES.items() if name not in left_out}


Content = tuple[str, str]
"""The sha256 of reference and distorted image."""


class PairScorer:
    """The score stage, a callable from a block of loaded rows to a block of results.

    Reads reference_pixels, distorted_pixels, reference_sha256, distorted_sha256, height_px,
    width_px, status and error. Adds the scores of rows with pixels, model_digest, run_id and
    run_attempt; updates status and error; drops the pixels. Each row in is one row out.

    Rows whose images have the same bytes are scored once, of those that a scorer gets within
    SCORES_KEPT different pairs.
    """

    def __init__(
        self,
        source: ModelSourceConfig,
        expected_digest: str,
        run_id: str,
        run_attempt: int,
        pass_through: pa.Schema,
        pixels_per_batch: int,
        use_gpu: bool,
        compile_kernels: bool,
        suspects: Suspects | None = None,
    ) -> None:
        """Load the model once per process, and check that it is the planned one.

        Args:
            source: the model.
            expected_digest: digest of the model that the run was planned with.
            run_id: of the run, for the results.
            run_attempt: number of the attempt, for the results.
            pass_through: schema of the manifest's columns in the results.
            pixels_per_batch: most pixels (pairs x H x W) scored together; capped at
                PIXELS_PER_CPU_BATCH on a CPU.
            use_gpu: score on the GPU that Ray gave this process, else on the CPU.
            compile_kernels: compile the kernels first; if that fails, log a warning and score with
                eager kernels.
            suspects: the rows that killed scorers; None outside a run.

        Raises:
            FaultError: the model has another digest, or there is no GPU.
        """
        if not use_gpu:
            pixels_per_batch = min(pixels_per_batch, PIXELS_PER_CPU_BATCH)
        self.pixels_per_batch = pixels_per_batch
        self.suspects = suspects
        self.counter = None if suspects is None else RowCounter(run_id)
        # When a scorer dies, Ray gives the rows of its calls to its successor.
        self.num_suspicious_calls = BLOCKS_IN_FLIGHT if is_repeated() else 0
        self.model = prepare_model(source, expected_digest, use_gpu, compile_kernels)
        # Batch-invariant encoding costs nothing on a CPU: scores do not depend on the batch.
        self.encoder = PairEncoder(self.model, batch_invariant=not use_gpu)
        self.measures = measures_of(self.model)
        self.lineage = {
            "model_digest": pa.scalar(self.model.digest),
            "run_id": pa.scalar(run_id),
            "run_attempt": pa.scalar(run_attempt, pa.int32()),
        }
        self.schema = result_schema(pass_through)
        self.kept: dict[Content, NDArray[np.float32]] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows with their scores, in their order."""
        return self.count_rows(self.choose_score_function()(rows))

    def choose_score_function(self) -> Callable[[pa.Table], pa.Table]:
        """Return what scores the rows of the next call: each alone if one may have killed."""
        if self.suspects is None or not self.num_suspicious_calls:
            return self.score
        self.num_suspicious_calls -= 1
        return partial(self.suspects.try_each, score=self.score)

    def count_rows(self, scored: pa.Table) -> pa.Table:
        """Return scored rows, after counting them for Ray's metrics."""
        if self.counter is not None:
            self.counter.add(scored)
        return scored

    def score(self, rows: pa.Table) -> pa.Table:
        """Return the rows with their scores, in their order, whatever a pair raises."""
        status, error = (rows.column(name).to_pylist() for name in ("status", "error"))
        scores = {  # those of an earlier run, NaN elsewhere
            field.name: rows.column(field.name).to_numpy().astype(np.float32)
            for field in SCORE_FIELDS
        }
        chosen, copies = self._choose(rows, scores)
        # A list: on a GPU, all batches are queued before the first result is awaited.
        batches = [one for batch in self._batches(rows, chosen) for one in self._score(rows, batch)]
        for indices, values in batches:
            if isinstance(values, RowError):
                status[indices[0]], error[indices[0]] = values.status.value, f"pair: {values}"
                continue
            for column, of_column in zip(self.measures, values.cpu().numpy(), strict=True):
                scores[column][indices] = of_column
        self._mark_non_finite(scores, status, error)
        for index, source in copies.items():
            status[index], error[index] = status[source], error[source]
            for values in scores.values():
                values[index] = values[source]
        self._keep(chosen, status, scores)
        is_null = np.array([state != Status.OK for state in status], dtype=bool)
        columns = {name: rows.column(name) for name in rows.column_names}
        columns |= {
            name: pa.array(values, pa.float32(), mask=is_null | (name not in self.measures))
            for name, values in scores.items()
        }
        columns |= {"status": pa.array(status, pa.string()), "error": pa.array(error, pa.string())}
        columns |= {name: pa.repeat(v, rows.num_rows) for name, v in self.lineage.items()}
        if self.lineage["run_attempt"].as_py() > 1:  # a retry can reuse scores of its own run
            reused_from = columns[REUSE_FIELD.name]
            is_own = pc.equal(reused_from, self.lineage["run_id"])
            columns[REUSE_FIELD.name] = pc.if_else(is_own, None, reused_from)
        return pa.table({name: columns[name] for name in self.schema.names}, schema=self.schema)

    def _choose(
        self, rows: pa.Table, scores: Mapping[str, NDArray[np.float32]]
    ) -> tuple[dict[int, Content | None], dict[int, int]]:
        """Return which rows to score, with their content, and which rows repeat one of these.

        The scores of other rows with pixels are taken from those that are kept.
        """
        has_pixels = rows.column("reference_pixels").is_valid().to_pylist()
        sha256 = (rows.column(name).to_pylist() for name in SHA256)
        chosen: dict[int, Content | None] = {}
        copies: dict[int, int] = {}
        first: dict[Content, int] = {}
        for index, content in enumerate(zip(*sha256, strict=True)):
            if not has_pixels[index]:
                continue
            if None in content:
                chosen[index] = None
            elif content in self.kept:
                for name, value in zip(self.measures, self.kept[content], strict=True):
                    scores[name][index] = value
            elif content in first:
                copies[index] = first[content]
            else:
                chosen[index], first[content] = content, index
        return chosen, copies

    def _keep(
        self, chosen: Mapping[int, Content | None], status: Sequence[str],
        scores: Mapping[str, NDArray[np.float32]],
    ) -> None:  # fmt: skip
        """Keep the scores of rows for others with the same images."""
        for index, content in chosen.items():
            if content is not None and status[index] == Status.OK:
                self.kept[content] = np.array([scores[name][index] for name in self.measures])
        for content in list(self.kept)[: max(0, len(self.kept) - SCORES_KEPT)]:
            del self.kept[content]

    def _batches(self, rows: pa.Table, chosen: Iterable[int]) -> Iterator[list[int]]:
        """Yield the indices of chosen rows in batches of one size, up to the pixel budget."""
        by_size: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        height_px, width_px = (rows.column(name).to_pylist() for name in ("height_px", "width_px"))
        for index in chosen:
            by_size[height_px[index], width_px[index]].append(index)
        for (height_px, width_px), indices in by_size.items():
            length = max(1, self.pixels_per_batch // (height_px * width_px))
            for start in range(0, len(indices), length):
                yield indices[start : start + length]

    def _score(
        self, rows: pa.Table, indices: list[int]
    ) -> list[tuple[list[int], Tensor | RowError]]:
        """Score rows of one size, halved while they do not fit the memory or raise an error."""
        had_reference = self.encoder.has_reference
        try:
            return [(indices, self._score_batch(rows, indices))]
        except Exception as error:
            if is_of_device(error):
                raise
            problem = _describe_failure(error)
        self.encoder.forget()
        torch.cuda.empty_cache()
        if had_reference:  # the kept reference of an earlier batch may have used the memory
            return self._score(rows, indices)
        if len(indices) == 1:
            return [(indices, problem)]
        middle = len(indices) // 2
        return self._score(rows, indices[:middle]) + self._score(rows, indices[middle:])

    @torch.inference_mode()  # otherwise torch compiles again for each view of a tensor
    def _score_batch(self, rows: pa.Table, indices: list[int]) -> Tensor:
        """Return (number of measures, N), the scores of rows of one size."""
        references, distorted = (
            images_of(rows, column, indices) for column in ("reference_pixels", "distorted_pixels")
        )
        scores = self.model.compare(*self.encoder.encode(references, distorted))
        # One tensor, because each copy from a GPU synchronizes with it.
        return torch.stack([getattr(scores, name) for name in self.measures.values()])

    def _mark_non_finite(
        self, scores: Mapping[str, NDArray[np.float32]], status: list[str], error: list[str]
    ) -> None:
        """Give rows whose score is not a finite number a status of their own."""
        used = [name for name in self.measures if name.endswith("_score")]
        for index, state in enumerate(status):
            if state == Status.OK and not all(np.isfinite(scores[name][index]) for name in used):
                got = ", ".join(f"{name} {scores[name][index]}" for name in used)
                status[index] = Status.NON_FINITE.value
                error[index] = f"pair: expected finite scores, got {got}"


def is_of_device(error: Exception) -> bool:
    """Return whether a GPU failed; then each later call fails as well, whatever its rows."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)


def _describe_failure(error: Exception) -> RowError:
    if is_out_of_memory(error):
        return RowError(Status.CRASHED, "expected enough memory to score it alone, got too little")
    return RowError(Status.CRASHED, f"expected a score, got {describe(error)}")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed, in CUDA or its libraries, in torch or in NumPy."""
    messages = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, MemoryError) or any(message in str(error) for message in messages)
