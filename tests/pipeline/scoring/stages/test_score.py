import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.runs.schema import loaded_schema, result_schema
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.stages.score import MEASURES, PairScorer
from spips_core import SPIPS, ModelConfig
from tests.pipeline.scoring.stages.scorers import PASS_THROUGH, make_rows, make_scorer


@pytest.fixture(scope="module")
def scorer() -> PairScorer:
    return make_scorer()


def test_a_row_has_the_model_s_scores_and_its_lineage(scorer):
    rows = make_rows(1)
    result = scorer(rows)
    assert result.schema == result_schema(PASS_THROUGH)
    (row,) = result.to_pylist()
    pixels = [
        torch.frombuffer(bytearray(rows[name][0].as_py()), dtype=torch.uint8)
        .view(1, 96, 100, 3)
        .permute(0, 3, 1, 2)
        for name in ("reference_pixels", "distorted_pixels")
    ]
    expected = SPIPS.load().score(*pixels)
    assert row["spips_score"] == pytest.approx(expected.score.item(), rel=1e-6)
    assert row["ms_ssim"] == pytest.approx(expected.ms_ssim.item(), rel=1e-6)
    assert row["expected_dmos"] == pytest.approx(expected.expected_dmos.item(), rel=1e-6)
    assert row["model_digest"] == scorer.model.digest
    assert (row["pair_id"], row["model"], row["run_id"]) == ("0", "m", "run")


def test_the_score_is_the_weighted_sum_of_the_streams(scorer):
    table = scorer(make_rows(8)).to_pandas()
    weights = scorer.model.fusion_weights
    total = sum(weight * table[f"{stream}_score"] for stream, weight in weights.items())
    assert np.abs(total - table["spips_score"]).max() <= 1e-7


def test_broken_neighbours_do_not_move_a_score_by_a_bit(scorer):
    whole = scorer(make_rows(12, sizes=((96, 100), (131, 97)))).to_pandas()
    partly = scorer(make_rows(12, sizes=((96, 100), (131, 97)), broken={0, 3, 4, 7})).to_pandas()
    ok = partly["status"] == "ok"
    assert ok.sum() == 8
    assert (partly[ok]["spips_score"] == whole[ok]["spips_score"]).all()
    assert (partly[ok]["percept_score"] == whole[ok]["percept_score"]).all()
    assert partly[~ok].drop(columns=["error"])["spips_score"].isna().all()


@pytest.mark.parametrize("block_rows", [1, 7, 64])
def test_scores_do_not_depend_on_block_or_order(scorer, block_rows):
    rows = make_rows(64, sizes=((96, 96), (97, 103)))
    expected = {row["pair_id"]: row for row in scorer(rows).to_pylist()}
    shuffled = rows.take(np.random.default_rng(1).permutation(64))
    for start in range(0, 64, block_rows):
        for row in scorer(shuffled.slice(start, block_rows)).to_pylist():
            assert row == expected[row["pair_id"]]


def share_references(rows: pa.Table, shared) -> pa.Table:
    """Give each row the reference of the row that `shared` names for it."""
    index = rows.schema.get_field_index("reference_pixels")
    return rows.set_column(index, rows.schema.field(index), rows.column(index).take(shared))


@pytest.mark.parametrize("block_rows", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    ("shared", "num_runs"),
    [([0, 0, 0, 3, 4, 4, 0, 0], 4), ([0] * 8, 1), ([0, 1, 1, 1, 1, 1, 6, 6], 3)],
)
def test_a_reference_that_pairs_in_a_row_share_goes_through_the_trunk_once(
    block_rows, shared, num_runs
):
    rows = share_references(make_rows(8), pa.array(shared))
    scorer, passed = make_scorer(), []
    scorer.model.trunk.register_forward_hook(  # a lone image goes with a copy
        lambda _, images, __: passed.append(len(images[0].flatten(1).unique_consecutive(dim=0)))
    )
    blocks = [scorer(rows.slice(start, block_rows)) for start in range(0, 8, block_rows)]
    assert sum(passed) == 8 + num_runs  # the distorted images, and each run of one reference
    alone = [make_scorer()(rows.slice(i, 1)) for i in range(8)]
    assert pa.concat_tables(blocks).equals(pa.concat_tables(alone))


@pytest.mark.parametrize("pairs", [2, 3, 8, 17, 40])
def test_pairs_scored_together_share_references_and_move_no_score_by_a_bit(scorer, pairs):
    rows = share_references(make_rows(40), pa.array([0, 0, 0, 3, 4, 4, 0, *range(7, 40)]))
    together = make_scorer()
    together.pixels_per_batch = pairs * 96 * 100
    assert together(rows).equals(scorer(rows))


@pytest.mark.slow
def test_compiled_kernels_score_as_eager_ones_and_alone_as_together(scorer):
    rows = make_rows(66, sizes=((96, 100), (131, 97)))
    compiled = make_scorer(compile_kernels=True)
    num_compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    got, expected = compiled(rows), scorer(rows)
    scores = got["spips_score"].to_numpy(), expected["spips_score"].to_numpy()
    assert np.abs(scores[0] - scores[1]).max() <= 1e-6
    assert compiled.pixels_per_batch > 20 * 131 * 97  # many together, of which some go other ways
    assert pa.concat_tables([compiled(rows.slice(i, 1)) for i in range(66)]).equals(got)
    compiled(share_references(rows, pa.array([0, 1] * 33)))
    three = share_references(make_rows(3), pa.array([0, 1, 1]))
    for start, length in ((0, 2), (2, 1)):
        compiled(three.slice(start, length))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == num_compiled


def test_without_a_compiler_a_warning_is_logged_and_pairs_are_scored(tmp_path):
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from scorers import make_rows, make_scorer
assert make_scorer(compile_kernels=True)(make_rows(2))["status"].to_pylist() == ["ok", "ok"]
"""
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    folder = str(Path(__file__).parent)
    got = subprocess.run(
        [sys.executable, "-c", script, folder],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert got.returncode == 0, got.stderr
    assert "scoring with eager kernels: expected to compile, got" in got.stderr


def test_every_row_in_is_a_row_out_in_order(scorer):
    rows = make_rows(10, broken=set(range(0, 10, 2)))
    result = scorer(rows)
    assert result["pair_id"].to_pylist() == rows["pair_id"].to_pylist()
    assert result["status"].to_pylist() == ["missing", "ok"] * 5


def test_a_block_of_broken_rows_only_keeps_its_schema(scorer):
    result = scorer(make_rows(3, broken={0, 1, 2}))
    assert result.schema == result_schema(PASS_THROUGH)
    assert result["spips_score"].null_count == 3


def test_identical_images_have_infinite_psnr_and_are_ok(scorer):
    rows = make_rows(1)
    same = rows.set_column(
        rows.column_names.index("distorted_pixels"), "distorted_pixels", rows["reference_pixels"]
    )
    (row,) = scorer(same).to_pylist()
    assert (row["status"], row["spips_score"], row["psnr_db"]) == ("ok", 0, np.inf)
    assert row["expected_dmos"] == 0


def test_a_score_that_overflows_is_non_finite(tmp_path):
    model = SPIPS.untrained(ModelConfig())
    weight = model.streams["tradition"].convs[0].weight.data
    weight[:] = 1
    largest = model.score(*_black_and_white()).tradition.item()
    weight[:] = 1.2 * 3.4e38 / largest  # this pair's score overflows, the known pair's does not
    model.save(tmp_path / "huge.safetensors")
    scorer = make_scorer(ModelSourceConfig(checkpoint=str(tmp_path / "huge.safetensors")))
    rows = make_rows(2)
    black, white = bytes(96 * 100 * 3), b"\xff" * (96 * 100 * 3)
    for name, pixels in (("reference_pixels", black), ("distorted_pixels", white)):
        values = pa.array([pixels, black], pa.large_binary())
        rows = rows.set_column(rows.column_names.index(name), name, values)
    bad, good = scorer(rows).to_pylist()
    assert (bad["status"], good["status"]) == ("non_finite", "ok")
    assert bad["spips_score"] is None
    assert "expected finite scores, got" in bad["error"]
    assert "inf" in bad["error"]


def _black_and_white():
    black = torch.zeros(1, 3, 96, 100, dtype=torch.uint8)
    return black, black + 255


def test_a_stream_that_the_model_leaves_out_is_null(tmp_path):
    model = SPIPS.untrained(ModelConfig(streams=("tradition", "percept")))
    model.save(tmp_path / "ablation.safetensors")
    scorer = make_scorer(ModelSourceConfig(checkpoint=str(tmp_path / "ablation.safetensors")))
    (row,) = scorer(make_rows(1)).to_pylist()
    assert row["status"] == "ok"
    assert row["semantic_score"] is None
    assert row["expected_dmos"] is None  # nothing was fitted, so there is no scale
    assert row["percept_score"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_scores_as_the_cpu_does(scorer):
    rows = make_rows(12, sizes=((96, 100), (131, 97)))
    rows = share_references(rows, pa.array([0, 1, 0, 1, 4, 5, 4, 7, 8, 9, 8, 9]))
    gpu_scorer = make_scorer(use_gpu=True)
    on_gpu = pa.concat_tables([gpu_scorer(rows.slice(0, 7)), gpu_scorer(rows.slice(7))]).to_pandas()
    on_cpu = scorer(rows).to_pandas()
    assert np.abs(on_gpu["spips_score"] / on_cpu["spips_score"] - 1).max() < 1e-4


def with_contents(rows: pa.Table, contents: list[str]) -> pa.Table:
    """Return loaded rows whose images have these hashes."""
    for name in ("reference_sha256", "distorted_sha256"):
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(name), pa.array(contents))
    return rows


def test_the_same_images_are_scored_once_within_a_block_and_across_blocks(monkeypatch):
    scorer, rows = make_scorer(), make_rows(4).take([0, 1, 1, 2, 0, 3, 2])
    expected = scorer.score(rows).select(["spips_score", "psnr_db", "status"])
    num_scored = []
    compare = scorer.model.compare

    def count(*encoded):
        result = compare(*encoded)
        num_scored.append(len(result.score))
        return result

    monkeypatch.setattr(scorer.model, "compare", count)
    marked = with_contents(rows, list("0112032"))
    for num_new in (4, 0):
        num_scored.clear()
        assert scorer.score(marked).select(expected.column_names).equals(expected)
        assert sum(num_scored) == num_new


def test_rows_with_the_images_of_one_that_fails_fail_alike(monkeypatch):
    scorer, rows = make_scorer(), make_rows(2, sizes=((96, 100), (96, 104))).take([0, 0, 1])
    monkeypatch.setattr(scorer.model, "compare", lambda *_: 1 / 0)
    result = scorer.score(with_contents(rows, list("001")))
    assert result["status"].to_pylist() == ["crashed"] * 3
    assert result["error"][0] == result["error"][1]
    assert not scorer.kept


def test_a_scorer_keeps_a_bounded_number_of_scores(monkeypatch):
    monkeypatch.setattr("pipeline.scoring.stages.score.SCORES_KEPT", 3)
    scorer = make_scorer()
    scorer.score(with_contents(make_rows(5), list("01234")))
    assert [content for content, _ in scorer.kept] == list("234")


@pytest.mark.parametrize(("attempt", "of_same_id"), [(1, "run"), (2, None)])
def test_rows_with_scores_of_an_earlier_run_pass_as_they_are(attempt, of_same_id):
    rows = make_rows(2).to_pylist()
    gone = {"reference_pixels": None, "distorted_pixels": None}
    known = dict.fromkeys(MEASURES, 0.25) | {"psnr_db": float("inf")}
    rows[1] |= {**gone, **known, "reused_from": "before"}
    # In a first attempt "run" is a run in another folder, in a retry it is the run itself.
    rows.append(rows[1] | {"pair_id": "same", "reused_from": "run"})
    scorer = make_scorer(run_attempt=attempt)
    result = scorer.score(pa.Table.from_pylist(rows, schema=loaded_schema(PASS_THROUGH)))
    assert result["spips_score"].to_pylist()[1:] == [0.25, 0.25]
    assert result["psnr_db"].to_pylist()[1:] == [float("inf")] * 2
    assert result["status"].to_pylist() == ["ok"] * 3
    assert result["reused_from"].to_pylist() == [None, "before", of_same_id]
