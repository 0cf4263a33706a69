import os
import signal
import time

import pytest
from pyarrow import ArrowInvalid

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
