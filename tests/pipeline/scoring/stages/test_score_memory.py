import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.scoring.stages.scorers import make_rows, make_scorer

REPOSITORY = Path(__file__).parents[4]


OUT_OF_MEMORY = """
import resource, sys
from tests.pipeline.scoring.stages.scorers import make_rows, make_scorer

scorer = make_scorer()
scorer(make_rows(2))
scorer.pixels_per_batch = 10**9  # as on a GPU, where pairs of one size are one batch
rows = make_rows(12, sizes=((96, 100), (1600, 1600)))
used = int(next(line for line in open("/proc/self/status") if "VmSize" in line).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + int(sys.argv[1]) * 2**20,) * 2)
print([(row["pair_id"], row["status"], row["error"]) for row in scorer(rows).to_pylist()])
"""


def score_with_memory(megabytes: int) -> list[tuple[str, str, str]]:
    """Score six small and six large pairs where so much more memory can be had."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(megabytes)],
        cwd=REPOSITORY, text=True, capture_output=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_a_batch_that_does_not_fit_is_halved_and_a_pair_that_does_not_crashed():
    assert {status for _, status, _ in score_with_memory(1500)} == {"ok"}
    tight = score_with_memory(250)
    assert [status for _, status, _ in tight] == ["ok", "crashed"] * 6
    assert tight[1][2] == "pair: expected enough memory to score it alone, got too little"


@pytest.mark.parametrize(("first", "expected"), [(0, "crashed"), (1, "ok")])
def test_a_pair_that_does_not_fit_beside_what_others_left_is_tried_without_it(first, expected):
    rows, scorer = make_rows(2), make_scorer()
    scorer(rows.slice(0, first))
    failures = iter([True])

    def fail_once(*_: object) -> None:
        if next(failures, False):
            raise MemoryError

    scorer.model.trunk.register_forward_pre_hook(fail_once)
    assert scorer(rows.slice(1))["status"].to_pylist() == [expected]
