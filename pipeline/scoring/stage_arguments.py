"""The stages load and score of a plan, for the graph on Ray and for a run in this process."""

from collections.abc import Callable
from typing import Any

from pipeline.scoring.plan import Plan
from pipeline.scoring.resources import (
    ROWS_PER_LOAD_TASK,
    ROWS_PER_REUSE_TASK,
    TASKS_PER_SCORER,
    Scorers,
)
from pipeline.scoring.reuse.known_scores import KnownScores
from pipeline.scoring.stages.load import PairLoader


def load_stage(plan: Plan, get_known: Callable[[], KnownScores] | None) -> PairLoader:
    """Return the load stage.

    Args:
        plan: the run.
        get_known: returns the scores of an earlier run in any process; None if there is none.
    """
    return PairLoader(
        plan.config.images,
        plan.manifest.image_columns,
        plan.pass_through,
        plan.config.compute.pixels_per_batch,
        get_known,
    )


def score_arguments(plan: Plan, scorers: Scorers) -> dict[str, Any]:
    """Return the arguments of `PairScorer`, without the rows that killed scorers."""
    return {
        "source": plan.config.model,
        "expected_digest": plan.model.digest,
        "run_id": plan.run_id,
        "run_attempt": plan.attempt.number,
        "pass_through": plan.pass_through,
        "pixels_per_batch": plan.config.compute.pixels_per_batch,
        "use_gpu": scorers.gpus_per_scorer > 0,
        "compile_kernels": scorers.compile_kernels,
    }


def rows_per_task(plan: Plan, scorers: Scorers) -> int:
    """Return how many rows are loaded together at most.

    A scorer that loads gives its rows away when all are scored. So it takes fewer if they are
    large, and if their number could leave other scorers idle at the end.
    """
    if not scorers.load_images:
        return ROWS_PER_LOAD_TASK if plan.earlier is None else ROWS_PER_REUSE_TASK
    share = plan.attempt.num_rows / (scorers.num_scorers * TASKS_PER_SCORER)
    return max(1, int(min(ROWS_PER_LOAD_TASK / plan.standard_pairs_per_row(), share)))
