import pyarrow as pa
import pytest

from jobs import audit_scores
from jobs.run_job import DONE
from pipeline.runs.finished import open_run
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.plan import make_plan
from tests.jobs.conftest import listing, read, score, write_manifest
from tests.pipeline.runs.version_0_2 import write_run_0_2

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def run_0_2(image_folder, tmp_path):
    """A function that writes run "night" as version 0.2 did, and the arguments of its command."""
    images = [str(image_folder / name) for name in ("r0.png", "d0_0.png", "absent.png")]
    pairs = {"pair_id": ["a", "b"], "reference_uri": images[:1] * 2, "distorted_uri": images[1:]}
    path = write_manifest(tmp_path / "pairs.parquet", pa.table(pairs))
    settings = {
        "manifest": {"uri": path},
        "output": {"uri": str(tmp_path / "out"), "run_id": "night"},
    }
    plan = make_plan(ScoreManifestConfig.model_validate(settings))

    def write(*, is_finished: bool) -> list[str]:
        write_run_0_2(
            tmp_path / "out", plan.fingerprints, images=images, manifest=path,
            is_finished=is_finished,
        )  # fmt: skip
        return [path, tmp_path / "out", "--output.run_id=night", "--failure.max_failed_fraction=1"]

    return write


def test_a_finished_run_of_version_0_2_is_left_alone_audited_and_retried(run_0_2, tmp_path, capfd):
    arguments = run_0_2(is_finished=True)
    run, before = tmp_path / "out" / "run_id=night", listing(tmp_path / "out")
    assert score(*arguments) == DONE
    assert f"this run is finished: {run}" in capfd.readouterr().out
    assert listing(tmp_path / "out") == before
    audited = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit", "--group_by=[]"]
    assert audit_scores.main(audited) == DONE

    assert score(*arguments, "--retry-failed") == DONE
    assert read(tmp_path / "out")["run_attempt"].to_pylist() == [1, 2]
    attempts = open_run(str(run)).record.attempts
    assert [attempt.num_rows for attempt in attempts] == [2, 1]
    assert [attempt.scorers.get("actors") for attempt in attempts] == [1, None]


def test_an_unfinished_run_of_version_0_2_resumes(run_0_2, tmp_path):
    assert score(*run_0_2(is_finished=False)) == DONE
    assert read(tmp_path / "out")["status"].to_pylist() == ["ok", "missing"]
