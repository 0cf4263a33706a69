"""Progress of a run: rows scored, rate and time left, as one line."""

import sys
import time
from datetime import timedelta

EVERY_S, EVERY_S_ON_TERMINALS = 10.0, 0.5


class ProgressLine:
    """Shows how far a run is: on a terminal in one line, elsewhere in a line every 10 seconds."""

    def __init__(self, num_rows: int, num_done: int) -> None:
        """Prepare a line.

        Args:
            num_rows: rows of the attempt.
            num_done: rows among them that interrupted processes have scored.
        """
        self._num_rows, self._num_done = num_rows, num_done
        self._is_terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()
        self._first: tuple[int, float] | None = None  # rows, and when they were seen

    def is_due(self) -> bool:
        """Return whether it is time to show the line again."""
        every_s = EVERY_S_ON_TERMINALS if self._is_terminal else EVERY_S
        return time.monotonic() - self._shown_s >= every_s

    def show(self, num_scored: int) -> None:
        """Show the line; num_scored counts the rows that this process has scored."""
        now_s = self._shown_s = time.monotonic()
        if num_scored and self._first is None:
            self._first = num_scored, now_s
        num_before, since_s = self._first or (num_scored, now_s)
        rate = (num_scored - num_before) / (now_s - since_s) if num_scored > num_before else None
        text = describe_progress(self._num_done + num_scored, self._num_rows, rate)
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def complete(self, num_scored: int) -> None:
        """Complete the line on a terminal, once all rows are scored."""
        if self._is_terminal:
            self.show(num_scored)
            sys.stderr.write("\n")


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
