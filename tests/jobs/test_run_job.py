import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from pyarrow import ArrowInvalid

from jobs import distill_trunk, evaluate, score_manifest, score_pair, train
from jobs import run_job as shared
from jobs.run_job import DONE, FAULT, INTERRUPTED, WRONG, exit_code_of, make_parser, run_job
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.settings import Section


class PhotoConfig(Section):
    """Settings of a job with one section."""

    class Photo(Section):
        """One photo."""

        side_px: int = 3

    photo: Photo = Photo()


def run(work, *arguments: str, **options) -> int:
    return run_job(work, PhotoConfig, make_parser("photo.py", "Test."), arguments, **options)


@pytest.fixture
def _sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm")
def test_the_work_gets_the_settings_and_each_flag_and_its_exit_code_is_the_job_s():
    got = {}

    def work(config: PhotoConfig, **flags: bool) -> int:
        got.update(flags, side_px=config.photo.side_px)
        return 7

    flags = {"dry_run": "write nothing", "retry_failed": "again"}
    assert run(work, "--dry-run", "--photo.side_px=5", flags=flags) == 7
    assert got == {"dry_run": True, "retry_failed": False, "side_px": 5}


@pytest.mark.usefixtures("_sigterm")
def test_wrong_settings_keep_the_work_from_starting(capfd):
    assert run(lambda _: pytest.fail("started"), "--photo.side_px=many", "--nonsense") == WRONG
    assert [line.split(": ")[0] for line in capfd.readouterr().err.splitlines()] == ["error"] * 2


def test_ray_reports_nothing_to_its_makers_unless_told_to():
    lines = """
from jobs.run_job import prepare_process
prepare_process()
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled())
"""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_USAGE_STATS_ENABLED"}
    for own, expected in (({}, "False"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "True")):
        command = [sys.executable, "-c", lines]
        told = subprocess.check_output(command, env=environment | own, text=True)
        assert told.split() == [expected]


@pytest.mark.usefixtures("_sigterm")
def test_sigterm_interrupts_the_work(capfd):
    def work(_: PhotoConfig) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return DONE

    assert run(work, interrupted="nothing was written") == INTERRUPTED
    assert capfd.readouterr().err == "interrupted: nothing was written\n"


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ContractError("a: wrong", "b: wrong"), WRONG, "error: a: wrong\nerror: b: wrong\n"),
        (ContractError("a: got\none\r\ntwo"), WRONG, "error: a: got one two\n"),
        (FaultError("the disk is full"), FAULT, "fault: the disk is full\n"),
        (OSError("s3://u:secret@b/x\nmore"), FAULT, "fault: OSError: s3://***@b/x\n"),
        (ArrowInvalid("damaged"), FAULT, "fault: ArrowInvalid: damaged\n"),
    ],
)
def test_an_error_is_one_line_per_problem_without_secrets(error, code, lines, capfd):
    def work() -> int:
        raise error

    assert exit_code_of(work) == code
    assert capfd.readouterr().err == lines


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0)


@pytest.fixture(
    params=["score_pair", "score_manifest", "train", "distill_trunk", "evaluate"],
)
def needs_weights(request, tmp_path, manifest):
    """A job as a function without arguments: its trunk's weights are torchvision's."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        Image.new("RGB", (120, 120), (number, 0, 0)).save(photos / f"{number}.png")
    image, output = str(photos / "0.png"), f"--output.uri={tmp_path / 'output'}"
    alexnet = json.dumps([{"name": "model", "checkpoint": "alexnet"}])
    series = json.dumps([{"name": "series", "path": str(photos), "side_px": 112}])
    main, arguments = {
        "score_pair": (score_pair, [image, image, "--checkpoint=alexnet"]),
        "score_manifest": (
            score_manifest, [f"--manifest.uri={manifest}", "--model.checkpoint=alexnet", output]
        ),
        "train": (train, [f"--data.severity_series={series}", output]),
        "distill_trunk": (
            distill_trunk,
            [f"--photos.path={photos}", f"--output.path={tmp_path / 'trunk.safetensors'}"],
        ),
        "evaluate": (
            evaluate, [f"--data.severity_series={series}", f"--models={alexnet}",
                       "--peers.names=[]", output],
        ),
    }[request.param]  # fmt: skip
    return lambda: main.main(arguments)


@pytest.mark.usefixtures("_sigterm")
def test_weights_that_cannot_be_fetched_are_a_fault_and_damaged_ones_are_wrong(
    no_network, needs_weights, capfd
):
    assert needs_weights() == FAULT
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fault: ")
    assert "torchvision could not fetch https://" in line
    (no_network / "alexnet-owt-7be5be79.pth").write_bytes(b"<html>502: bad gateway</html>")
    assert needs_weights() == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "got a damaged file" in line


@pytest.mark.parametrize(("limit_s", "expected"), [(0.01, "note: still here\n"), (60, "")])
def test_only_what_takes_long_says_that_it_waits(limit_s, expected, monkeypatch, capsys):
    monkeypatch.setattr(shared, "SLOW_S", limit_s)
    with shared.say_if_slow("note: still here"):
        time.sleep(0.5)
    assert capsys.readouterr().err == expected


def test_ray_that_does_not_start_is_a_fault_in_one_line(monkeypatch, capsys):
    def time_out(*_, **__):
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr("ray.init", time_out)
    assert exit_code_of(lambda: shared.start_ray(verbose=False)) == FAULT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fault: expected Ray to start on this machine, got: The current node")
