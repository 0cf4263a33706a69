import json

import pyarrow as pa
import pytest

from jobs import audit_scores, filter_scores
from jobs.run_job import DONE, WRONG
from tests.jobs.conftest import listing, score, write_manifest
from tests.pipeline.runs.version_0_2 import write_run_0_2


@pytest.fixture
def manifest_of_two(image_folder, tmp_path):
    images = [str(image_folder / name) for name in ("r0.png", "d0_0.png", "absent.png")]
    pairs = {"pair_id": ["a", "b"], "reference_uri": images[:1] * 2, "distorted_uri": images[1:]}
    path = write_manifest(tmp_path / "pairs.parquet", pa.table(pairs))
    write_run_0_2(tmp_path / "out", images=images, manifest=path)
    return path


def test_a_run_of_version_0_2_is_audited_and_filtered_and_never_written(
    manifest_of_two, tmp_path, capfd
):
    runs, before = tmp_path / "out", listing(tmp_path / "out")
    uri = f"--scores.uri={runs}"
    assert audit_scores.main([uri, f"--output.uri={tmp_path}/audit", "--group_by=[]"]) == DONE
    assert filter_scores.main([uri, f"--output.uri={tmp_path}/kept"]) == DONE
    bound = {"column": "expected_dmos", "at_most": 40}
    gates, bounds = (
        f"--gates=[{json.dumps(bound | {'figure': 'mean'})}]",
        f"--bounds=[{json.dumps(bound)}]",
    )
    capfd.readouterr()
    for job, asked in ((audit_scores, gates), (filter_scores, bounds)):
        assert job.main([uri, f"--output.uri={tmp_path}/refused", asked]) == WRONG
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert "has no expected_dmos: a version of this project before 0.5 scored it" in error
    for arguments in ((), ("--retry-failed",)):
        assert score(manifest_of_two, runs, "--output.run_id=night", *arguments) == WRONG
        assert f"expected a new name, got that of {runs}/run_id=night" in capfd.readouterr().err
    assert listing(runs) == before
