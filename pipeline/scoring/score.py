"""The score stage: the only file of the pipeline that knows torch and the model."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, compress, pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.runs.errors import FaultError
from pipeline.runs.records import ModelInfo
from pipeline.runs.schema import SCORE_FIELDS, Status, result_schema
from pipeline.runs.storage import local_copy
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.resources import keep_freed_memory
from spips_core import SPIPS, CompilationError, Encoding, Scores, packaged_checkpoints

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

KEPT_BYTES = 1 << 30
"""Freed memory that a scoring process keeps at most, and the largest tensor it is kept for."""


def describe_model(model: SPIPS) -> ModelInfo:
    """Return what a run records of its model."""
    return ModelInfo(
        digest=model.digest,
        trained=bool(model.training_record),
        training=model.training_record,
        config=asdict(model.config),
        fusion_weights=model.fusion_weights,
    )


def load_model(source: ModelSourceConfig) -> SPIPS:
    """Load the model that a config names; files elsewhere are fetched and checked first.

    Args:
        source: checkpoint, weights and precision.

    Raises:
        FaultError: a file cannot be fetched, or has another sha256.
        CheckpointError: a file is not what the model expects.
    """
    checkpoint = str(packaged_checkpoints().get(source.checkpoint, source.checkpoint))
    weights = source.backbone_weights
    return SPIPS.load(
        local_copy(checkpoint, source.checkpoint_sha256),
        backbone_weights=local_copy(weights, source.backbone_weights_sha256) if weights else None,
        precision=PRECISIONS[source.precision],
    )


PIXELS_TOGETHER = 4 * 256 * 256
"""Pixels (pairs x H x W) that a CPU scores together: enough that calls into torch, and what each
convolution does once, weigh little; few enough to stay in its cache."""


@dataclass(frozen=True)
class Kept:
    """What pairs that follow may share with the last ones scored.

    Attributes:
        content: size and pixels of the last reference.
        references: of the last pairs, encoded; their distorted images' features share its memory.
        is_one: whether they all are that one.
    """

    content: tuple[list[int], pa.Buffer]
    references: Encoding
    is_one: bool


class PairScorer:
    """The score stage, a callable from a block of loaded rows to a block of results.

    Reads reference_pixels, distorted_pixels, height_px, width_px, status and error. Adds the
    scores, model_digest, run_id and run_attempt; drops the pixels. Every row in is one row out.
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
        threads: int,
        compile_kernels: bool,
    ) -> None:
        """Load the model, once a process, and check that it is the one the run was planned with.

        Args:
            source: the model.
            expected_digest: digest of the model that the run's id stands for.
            run_id: of the run, for the results.
            run_attempt: number of the attempt, for the results.
            pass_through: schema of the manifest's columns in the results.
            pixels_per_batch: most pixels (pairs x H x W) scored together; on a CPU at most
                PIXELS_TOGETHER of them are, and no neighbour moves a score by a bit.
            use_gpu: score on the GPU that Ray gave this process, else on the CPU.
            threads: on a CPU, how many work at once, each on what is scored together.
            compile_kernels: compile the passes over pixels first; where that fails, a warning is
                logged and they run as they stand.

        Raises:
            FaultError: the model is another, or there is no GPU.
        """
        model = load_model(source)
        if model.digest != expected_digest:
            raise FaultError(
                f"model.checkpoint: expected digest {expected_digest} as on the driver, "
                f"got {model.digest}"
            )
        if use_gpu:
            if not torch.cuda.is_available():
                raise FaultError(
                    "compute.gpus_per_scorer: expected a CUDA GPU, got none in this process"
                )
            # Scores are stated for float32; cuDNN would quietly round its inputs to 10 bits.
            torch.backends.cudnn.allow_tf32 = False
            model = model.cuda()
        else:
            # Processes scale where threads do not, and a sum's rounding depends on its threads.
            torch.set_num_threads(1)
            keep_freed_memory(KEPT_BYTES)
        if compile_kernels:
            try:
                with torch.inference_mode():  # as it scores
                    model.compile_kernels()
            except CompilationError as error:
                logging.getLogger(__name__).warning("scoring without compiled passes: %s", error)
        # As the trunk's inputs lie, so that no call has to turn its weights.
        model.trunk.to(memory_format=torch.channels_last)
        self.model = model
        self.use_gpu = use_gpu
        self.run_id = run_id
        self.run_attempt = run_attempt
        self.schema = result_schema(pass_through)
        self.pixels_per_batch = (
            pixels_per_batch if use_gpu else min(pixels_per_batch, PIXELS_TOGETHER)
        )
        self._map = map if threads == 1 else ThreadPoolExecutor(threads).map
        self._kept: Kept | None = None
        # What the model tells, by result column.
        self.measures = {f"{stream}_score": stream for stream in model.config.streams}
        self.measures |= {"spips_score": "score"}
        self.measures |= {name: name for name in ("psnr_db", "ssim", "ms_ssim")}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows with their scores, in their order."""
        status = rows.column("status").to_pylist()
        error = rows.column("error").to_pylist()
        scores = {field.name: np.full(rows.num_rows, np.nan, np.float32) for field in SCORE_FIELDS}
        # On a GPU nothing is waited for until all of it is under way.
        scored = self._map(partial(self._score, rows), self._batches(rows))
        batches = list(chain.from_iterable(scored))
        for indices, batch in batches:
            if batch is None:
                status[indices[0]] = Status.TOO_LARGE.value
                error[indices[0]] = "pair: expected a size that fits the scorer's memory, got more"
                continue
            for name, of_batch in zip(self.measures, batch.cpu().numpy(), strict=True):
                scores[name][indices] = of_batch
        used = [name for name in self.measures if name.endswith("_score")]
        for index, state in enumerate(status):
            if state == Status.OK and not all(np.isfinite(scores[name][index]) for name in used):
                got = ", ".join(f"{name} {scores[name][index]}" for name in used)
                status[index] = Status.NON_FINITE.value
                error[index] = f"pair: expected finite scores, got {got}"
        is_null = np.array([state != Status.OK for state in status], dtype=bool)
        columns = {
            name: rows.column(name) for name in rows.column_names if name in self.schema.names
        }
        for name, values in scores.items():
            is_unused = name.endswith("_score") and name not in used
            columns[name] = pa.array(values, pa.float32(), mask=is_null | is_unused)
        columns["status"] = pa.array(status, pa.string())
        columns["error"] = pa.array(error, pa.string())
        columns["model_digest"] = pa.repeat(self.model.digest, rows.num_rows)
        columns["run_id"] = pa.repeat(self.run_id, rows.num_rows)
        columns["run_attempt"] = pa.repeat(pa.scalar(self.run_attempt, pa.int32()), rows.num_rows)
        return pa.table(columns, schema=self.schema)

    def _batches(self, rows: pa.Table) -> Iterator[list[int]]:
        """Yield the indices of loaded rows, those of one size together up to the pixel budget."""
        by_size: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        sizes = zip(
            rows.column("height_px").to_pylist(), rows.column("width_px").to_pylist(), strict=True
        )
        for index, size in enumerate(sizes):
            if size[0] is not None:
                by_size[size].append(index)
        for (height_px, width_px), indices in by_size.items():
            length = max(1, self.pixels_per_batch // (height_px * width_px))
            for start in range(0, len(indices), length):
                yield indices[start : start + length]

    def _score(self, rows: pa.Table, indices: list[int]) -> list[tuple[list[int], Tensor | None]]:
        """Score a few rows of one size, halved until they fit the memory; None: a pair does not."""
        held_some = self._kept is not None
        try:
            return [(indices, self._score_batch(rows, indices))]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._kept = None
        torch.cuda.empty_cache()
        if held_some:  # what other pairs left must not decide
            return self._score(rows, indices)
        if len(indices) == 1:
            return [(indices, None)]
        middle = len(indices) // 2
        return self._score(rows, indices[:middle]) + self._score(rows, indices[middle:])

    @torch.inference_mode()  # else torch compiles a pass anew for each way to view a batch
    def _score_batch(self, rows: pa.Table, indices: list[int]) -> Tensor:
        """Return (number of measures, N), the scores of a few rows of one size."""
        references, distorted = self._encode(rows, indices)
        scores: Scores = self.model.compare(references, distorted)
        # One tensor, because each copy from a GPU waits for it.
        return torch.stack([getattr(scores, name) for name in self.measures.values()])

    def _encode(self, rows: pa.Table, indices: list[int]) -> tuple[Encoding, Encoding]:
        """Return references and distorted images as the model compares them.

        What pairs that follow each other share, in a batch or with the last one, is encoded once.
        """
        size = [rows.column(name)[indices[0]].as_py() for name in ("height_px", "width_px")]
        pixels = rows.column("reference_pixels")
        contents = [(size, pixels[index].as_buffer()) for index in indices]
        kept = self._kept  # which another thread may replace
        is_new = [one != last for last, one in pairwise([kept and kept.content, *contents])]
        if is_new[0]:
            kept = self._kept = None  # room for the next
        cells = [("reference_pixels", index) for index in compress(indices, is_new)]
        cells += [("distorted_pixels", index) for index in indices]
        images = stack_pixels(rows, cells)
        if self.use_gpu:
            images = images.pin_memory().cuda(non_blocking=True)
        lengths = [length for length in (sum(is_new), len(indices)) if length]
        *new, distorted = self.model.encode_parts(images, lengths, steady=not self.use_gpu)
        if kept and kept.is_one and not any(is_new) and len(kept.references) >= len(indices):
            return kept.references[: len(indices)], distorted
        references = Encoding.join([kept.references[-1:], *new] if kept else new)
        is_one = len(references) == 1
        if is_one:
            references = references.repeat(len(indices))
        elif not all(is_new):
            positions = torch.tensor([0, *is_new[1:]]).cumsum(dim=0)
            if self.use_gpu:
                positions = positions.pin_memory().cuda(non_blocking=True)
            references = references[positions]
        last = size, pa.py_buffer(contents[-1][1].to_pybytes())
        self._kept = Kept(last, references, is_one)
        return references, distorted


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: CUDA's, one inside its libraries, torch's or NumPy's.

    Args:
        error: what scoring raised.
    """
    messages = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, MemoryError) or any(message in str(error) for message in messages)


def stack_pixels(rows: pa.Table, cells: Sequence[tuple[str, int]]) -> Tensor:
    """Return some loaded images, all of one size.

    Args:
        rows: as the load stage makes them, with height_px and width_px.
        cells: the images' columns (reference_pixels, distorted_pixels) and rows.

    Returns:
        (len(cells), 3, H, W) uint8, the channels innermost in memory, as they were decoded.
    """
    size = [rows.column(name)[cells[0][1]].as_py() for name in ("height_px", "width_px")]
    images = [
        np.frombuffer(rows.column(column)[index].as_buffer(), np.uint8).reshape(*size, 3)
        for column, index in cells
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
