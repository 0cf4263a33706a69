import shutil

from jobs import demo
from pipeline.runs.finished import open_scores


def test_the_demo_scores_its_pairs_and_breaks_a_row_for_each_status(tmp_path, capfd):
    assert demo.main([f"--output={tmp_path}"]) == 0
    (run,) = (tmp_path / "scores").glob("run-*")
    results = open_scores(str(run)).to_table().to_pandas()
    broken = results[results["distortion"].isna()]
    assert ("broken-" + broken["status"]).tolist() == broken["pair_id"].tolist()
    assert len(broken) == 7
    pairs = results[results["distortion"].notna()]
    assert (pairs["status"] == "ok").all()
    means = pairs.pivot_table(index="distortion", columns="level", values="spips_score")
    assert means.shape == (6, 5)
    assert (means.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)  # stronger is worse
    printed = capfd.readouterr().out
    assert "mean spips_score by distortion and level" in printed
    assert "too_large" in printed
    other = run.with_name("run-other")
    shutil.copytree(run, other)
    (other / "_SUCCESS").touch()  # newer
    assert demo.main([f"--output={tmp_path}"]) == 0
    printed = capfd.readouterr()
    assert "have changed" not in printed.err
    assert f"results: {run}/scores" in printed.out
