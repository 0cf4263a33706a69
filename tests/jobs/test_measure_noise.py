"""`spips noise`: how much the figures of reruns vary."""

import json
import re
from pathlib import Path

import pytest

from jobs import cli
from jobs.run_job import DONE, WRONG

LEVELS = (0.1, 0.102, 0.098)


@pytest.fixture
def runs(write_run):
    return [write_run(columns(level), f"run{i}") for i, level in enumerate(LEVELS)]


def columns(level, prefix="p"):
    return {"pair_id": [f"{prefix}{i}" for i in range(20)], "maker": ["a", None] * 10,
            "spips_score": [level * (1 + i % 2) for i in range(20)]}  # fmt: skip


def test_the_floor_of_each_figure_is_printed(runs, capfd):
    assert cli.main(["noise", *runs]) == DONE
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "runs       3, false-alarm rate 5.00%"
    # Student's factor of three runs, 2.92, times the root of 1 + 1/3, times 0.003.
    assert lines[1] == ("noise      all rows: mean of spips_score: mean 0.15, standard deviation "
                        "0.003 (2 %), smallest rise 0.01 (6.7 %)")  # fmt: skip
    assert [re.search(r": (\w+) of", line)[1] for line in lines[1:]] == ["mean", "median", "p95"]


def test_large_numbers_are_printed_without_exponents(write_run, capfd):
    runs = [write_run(columns(level), f"run-{level}") for level in (10, 100)]
    assert cli.main(["noise", *runs, "--figures=mean"]) == DONE
    line = capfd.readouterr().out.splitlines()[1]
    assert re.search(r"standard deviation \d{2,} \(\d+ %\), smallest rise \d{3} \(\d{3} %\)$", line)


def test_a_folder_of_runs_and_groups_are_measured(runs, capfd):
    folder = str(Path(runs[0]).parent)
    assert cli.main(["noise", folder, "--group_by=maker", "--figures=p95"]) == DONE
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "noise      all rows", "noise      a", "noise      (null)",
    ]  # fmt: skip


def test_one_run_is_too_few(runs, capfd):
    for given in (runs[:1], [runs[0]] * 2):
        assert cli.main(["noise", *given]) == WRONG
        (line,) = capfd.readouterr().err.splitlines()
        assert line == (
            "error: scores.uris: expected at least 2 different runs of an unchanged model, got 1"
        )
    assert cli.main(["noise"]) == WRONG
    assert capfd.readouterr().err == "error: scores.uris: required, but not given\n"


def test_runs_that_do_not_repeat_each_other_are_one_line(runs, write_run, capfd):
    model = write_run(columns(0.1), "model", digest="b" * 64)
    pairs = write_run(columns(0.1, prefix="q"), "pairs")
    settings = write_run(columns(0.1), "settings")
    record = Path(settings) / "run.json"
    content = json.loads(record.read_text())
    content["fingerprints"]["scoring"] = "other"
    record.write_text(json.dumps(content))
    for other, problem in (
        (model, f"expected the model of {runs[0]}, aaaaaaaaaaaaaaaa, got bbbbbbbbbbbbbbbb at "),
        (
            settings,
            f"expected the image settings, precision and version of {runs[0]}, s, got other",
        ),
        (pairs, "expected runs that share at least 99% of their pairs, got 0 of 20 in both "),
        (f"{runs[0]}-absent", f"{runs[0]}-absent cannot be read: "),
    ):
        assert cli.main(["noise", *runs, other]) == WRONG
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: scores.uris: {problem}")
