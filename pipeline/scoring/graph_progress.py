"""Count the rows of a running graph for its progress line, in place of Ray Data's many lines."""

from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.scoring.progress import ProgressLine


class GraphProgress(ExecutionCallback):  # ray.data has no public name for it
    """Shows how far a graph is."""

    def __init__(self, stage: str, line: ProgressLine) -> None:
        """Prepare to count the rows of the stage with this name."""
        self._stage, self._line = stage, line

    def on_execution_step(self, executor: Any) -> None:
        """Show the line if it is time; Ray Data calls this many times per second."""
        if self._line.is_due() and (num_scored := self._count(executor)) is not None:
            self._line.show(num_scored)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Complete the line."""
        if (num_scored := self._count(executor)) is not None:
            self._line.complete(num_scored)

    def _count(self, executor: Any) -> int | None:
        """Return the rows that the stage has given away; None if this graph does not have it."""
        stages = [one for one in executor._topology or () if self._stage in one.name]
        return stages[0].metrics.row_outputs_taken if stages else None
