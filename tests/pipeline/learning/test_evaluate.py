import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.learning.config import EvaluateConfig, JudgedModelConfig
from pipeline.learning.evaluate import JudgedModel, evaluate, spips_scores
from pipeline.learning.judged_sets import JudgedSet
from pipeline.runs.errors import ContractError
from spips_core import SPIPS, ModelConfig
from spips_core.learning.rated_pairs import RatedPairs


@pytest.fixture
def rated(tmp_path):
    """Eight rated pairs of four references, 100 px."""
    generator = np.random.default_rng(0)
    rows = ["reference,distorted,dmos"]
    for number in range(4):
        reference = generator.integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(reference).save(tmp_path / f"r{number}.png")
        for version in range(2):
            distorted = np.clip(reference.astype(int) + 9 * (version + 1) + number, 0, 255)
            Image.fromarray(distorted.astype(np.uint8)).save(tmp_path / f"d{number}{version}.png")
            rows.append(f"r{number}.png,d{number}{version}.png,{10 * number + 7 * version}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    return tmp_path / "pairs.csv"


def fold(seed, number, held_out):
    model = SPIPS.untrained(ModelConfig(), seed=seed)
    model.training_record = {
        "held_out_fold": f"{number} of 2", "held_out_references": json.dumps(held_out)
    }  # fmt: skip
    return model


def test_each_pair_is_judged_by_the_trunk_and_the_fold_that_have_it_held_out(rated):
    pairs = RatedPairs(rated)
    held_out = [["r0.png", "r3.png"], ["r1.png", "r2.png"]]
    models = [fold(number, number, names) for number, names in enumerate(held_out)]
    assert models[0].trunk.digest() != models[1].trunk.digest()
    item = JudgedSet("set", "rated", pairs, 1.0)
    got = spips_scores(JudgedModel("m", models), item, None, lambda _: None)
    assert got.shape == (8, 1)
    for index, name in enumerate(pairs.references):
        example = pairs[index]
        model = next(m for m, names in zip(models, held_out, strict=True) if name in names)
        expected = model.score(example.reference[None], example.distorted).score.item()
        assert got[index, 0] == pytest.approx(expected, rel=1e-4)


def config(rated, **changes):
    settings = {
        "data": {"rated": [{"name": "set", "path": str(rated)}]},
        "peers": {"names": ["psnr"]},
        "output": {"uri": str(rated.parent / "out"), "bootstrap_samples": 20},
    }
    return EvaluateConfig.model_validate(settings | changes)


def problems_of(chosen):
    with pytest.raises(ContractError) as error:
        evaluate(chosen, report=lambda _: None)
    return "\n".join(error.value.problems)


def test_two_columns_of_one_name_are_refused(rated):
    chosen = config(rated, models=[{"name": "psnr", "checkpoint": "embedded"}])
    assert "expected different names, got psnr twice" in problems_of(chosen)


def test_nothing_to_judge_and_no_place_for_the_tables_are_refused_before_the_work(rated):
    chosen = config(rated, models=[], peers={"names": []}, output={"uri": f"{rated}/out"})
    problems = problems_of(chosen)
    assert "expected at least one, got none" in problems
    assert "output.uri: " in problems


def test_a_checkpoint_with_a_different_held_out_fold_is_refused(rated, tmp_path):
    for name, number in (("m-0", 0), ("m-1", 0)):
        fold(1, number, []).save(tmp_path / f"{name}.safetensors")
    path = f"{tmp_path}/m-{{fold}}.safetensors"
    chosen = config(rated, models=[{"name": "m", "checkpoint": path, "num_folds": 2}])
    assert "m-1.safetensors: expected a model with held-out fold 1 of 2, got 0 of 2" in problems_of(
        chosen
    )


@pytest.mark.parametrize(("path", "num_folds"), [("a-{fold}.safetensors", 1), ("embedded", 3)])
def test_folds_without_a_path_each_are_refused(path, num_folds):
    with pytest.raises(ValueError, match=r"expected \{fold\} in checkpoint and num_folds"):
        JudgedModelConfig(name="m", checkpoint=path, num_folds=num_folds)


def test_a_path_with_family_names_a_model_for_each_family(rated, tmp_path):
    model = fold(1, 0, [])
    for held_out in ("tone", "blur"):
        model.training_record["held_out_family"] = "tone"
        model.save(tmp_path / f"m-{held_out}.safetensors")
    path = f"{tmp_path}/m-{{family}}.safetensors"
    whole = {"name": "m", "checkpoint": "embedded"}  # the model that left nothing out
    problems = problems_of(config(rated, models=[whole, {"name": "m", "checkpoint": path}]))
    assert "expected different names" not in problems
    families = ["artefact", "blur", "colour", "compression", "geometry", "local", "noise",
                "resampling"]  # fmt: skip
    assert [f"models m without {family}: " in problems for family in families] == [True] * 8
    assert "without tone" not in problems
    assert "m-blur.safetensors: expected a model with held-out family blur, got tone" in problems


def test_a_peer_that_accepts_only_larger_images_is_named_and_the_rest_is_measured(rated):
    markdown = evaluate(config(rated, peers={"names": ["psnr", "ms_ssim"]}), report=lambda _: None)
    assert "- ms_ssim could not be measured: images of 100 x 100 px (H x W): " in markdown
    assert "| psnr | " in markdown
    assert "| SPIPS embedded | " in markdown


def test_five_pairs_are_too_few_for_the_logistic_fit_and_nothing_else(rated):
    rated.write_text("\n".join(rated.read_text().splitlines()[:6]))
    markdown = evaluate(config(rated, models=[]), report=lambda _: None)
    (row,) = [line for line in markdown.splitlines() if line.startswith("| psnr |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "-"
    assert cells[1] != "-"


def test_a_jury_set_is_evaluated_over_all_kinds_and_within_each(rated, tmp_path):
    jury = {
        "name": "jury", "path": str(tmp_path), "kinds": ["gaussian_blur", "jpeg", "shifted"],
        "num_series": 6, "side_px": 96, "jurors": ["mdsi"],
    }  # fmt: skip
    config = {
        "data": {"jury": [jury], "cache": str(tmp_path / "cache")},
        "models": [{"name": "embedded", "checkpoint": "embedded"}],
        "peers": {"names": ["mdsi"]},
        "output": {"uri": str(tmp_path / "tables"), "bootstrap_samples": 0},
    }
    evaluate(EvaluateConfig.model_validate(config), report=lambda _: None)
    rows = pq.read_table(tmp_path / "tables/evaluation.parquet").to_pylist()
    srcc = {(row["model"], row["subset"]): row["value"] for row in rows}
    assert [srcc["mdsi", ""], srcc["mdsi", "jpeg"]] == pytest.approx([1, 1])  # the jury itself
    assert -1 <= srcc["embedded", ""] < 1
    assert np.isnan(srcc["embedded", "shifted"])
    scores = pq.read_table(tmp_path / "tables/scores.parquet").to_pylist()
    assert all(len(row["scores"]) == len(row["targets"]) == 5 for row in scores)
