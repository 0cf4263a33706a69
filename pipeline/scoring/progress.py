"""Progress of a run: rows scored, rate and time left, as one line instead of Ray Data's many."""

import sys
import time
from datetime import timedelta
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

EVERY_S, EVERY_S_ON_TERMINALS = 10.0, 0.5


class ProgressLine(ExecutionCallback):  # ray.data has no public name for it
    """Shows how far a graph is: on a terminal in one line, elsewhere in a line every 10 seconds."""

    def __init__(self, stage: str, num_rows: int, num_done: int) -> None:
        """Prepare a line.

        Args:
            stage: name of the stage whose rows count.
            num_rows: rows of the attempt.
            num_done: rows among them that interrupted processes have scored.
        """
        self._stage, self._num_rows, self._num_done = stage, num_rows, num_done
        self._is_terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()
        self._first: tuple[int, float] | None = None  # rows, and when they were seen

    def on_execution_step(self, executor: Any) -> None:
        """Show the line if it is time; Ray Data calls this many times per second."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (EVERY_S_ON_TERMINALS if self._is_terminal else EVERY_S):
            return
        num_scored = self._count(executor)
        if num_scored is not None:
            self._shown_s = now_s
            self._show(num_scored, now_s)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Complete the line on a terminal."""
        num_scored = self._count(executor)
        if self._is_terminal and num_scored is not None:
            self._show(num_scored, time.monotonic())
            sys.stderr.write("\n")

    def _count(self, executor: Any) -> int | None:
        """Return the rows that the stage has given away; None if this graph does not have it."""
        stages = [one for one in executor._topology or () if self._stage in one.name]
        return stages[0].metrics.row_outputs_taken if stages else None

    def _show(self, num_scored: int, now_s: float) -> None:
        if num_scored and self._first is None:
            self._first = num_scored, now_s
        num_before, since_s = self._first or (num_scored, now_s)
        rate = (num_scored - num_before) / (now_s - since_s) if num_scored > num_before else None
        text = describe_progress(self._num_done + num_scored, self._num_rows, rate)
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()


def describe_progress(num_done: int, num_rows: int, rows_per_s: float | None) -> str:
    """Return the line.

    Args:
        num_done: rows scored so far.
        num_rows: rows in all.
        rows_per_s: rate since the first rows were scored; None before there are more.
    """
    line = f"scored    {num_done:,} of {num_rows:,} rows"
    if rows_per_s is None:
        return line
    left = timedelta(seconds=round((num_rows - num_done) / rows_per_s))
    return f"{line}, {rows_per_s:,.1f} rows/s, {left} left"
