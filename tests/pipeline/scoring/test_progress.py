"""The line that shows how far a run is; tests/jobs/test_score_manifest.py has it on a real run."""

import pytest

from pipeline.scoring.progress import describe_progress


@pytest.mark.parametrize(
    ("rows_per_s", "expected"),
    [
        (None, "scored    1,000 of 20,000 rows"),
        (2000.0, "scored    1,000 of 20,000 rows, 2,000.0 rows/s, 0:00:10 left"),
        (0.5, "scored    1,000 of 20,000 rows, 0.5 rows/s, 10:33:20 left"),
    ],
)
def test_the_line_says_rows_rate_and_time_left(rows_per_s, expected):
    assert describe_progress(1000, 20_000, rows_per_s) == expected
