import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.runs.schema import pass_through_schema
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.stages.load import PairLoader
from pipeline.scoring.stages.load_and_score import LoadingPairScorer
from tests.pipeline.scoring.stages.scorers import make_scorer

COLUMNS = ("reference_uri", "distorted_uri")


def write_rows(folder, num_rows: int) -> pa.Table:
    """Return rows that share a reference; the last one has no distorted image."""
    generator = np.random.default_rng(0)
    paths = [str(folder / f"{number}.png") for number in range(num_rows)]
    for path in paths[:-1]:
        Image.fromarray(generator.integers(0, 256, (96, 100, 3), np.uint8)).save(path)
    ids = [str(number) for number in range(num_rows)]
    return pa.table([ids, paths[:1] * num_rows, paths], names=["pair_id", *COLUMNS])


def test_each_row_has_the_result_of_both_stages_one_after_the_other(tmp_path):
    rows = write_rows(tmp_path, 7)
    pass_through = pass_through_schema(rows.schema, COLUMNS)
    loader = PairLoader(ImagesConfig(), COLUMNS, pass_through, pixels_per_block=2 * 96 * 100)
    both = make_scorer(stage=LoadingPairScorer, loader=loader, pass_through=pass_through)
    apart = make_scorer(pass_through=pass_through)
    scored = both(rows)
    assert scored.equals(pa.concat_tables([apart(block) for block in loader.load(rows)]))
    assert scored["status"].to_pylist() == ["ok"] * 6 + ["missing"]
    assert both(rows.slice(0, 0)).equals(scored.slice(0, 0))
