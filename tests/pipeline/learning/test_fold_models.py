import numpy as np
import pytest
from PIL import Image

from pipeline.learning.fold_models import split
from pipeline.learning.judged_sets import JudgedSet
from pipeline.learning.training_sets import TrainingSet, families_of
from spips_core.learning.batches import ImageSource
from spips_core.learning.rated_pairs import RatedPairs
from spips_core.learning.severity_series import SeveritySeries

KINDS = ["jpeg", "haze", "webp", "hue"]


@pytest.fixture
def sets(tmp_path):
    """Four series of three families, and two rated pairs of a kind with a family's name."""
    for number in range(4):
        Image.new("RGB", (96, 96)).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{number}.png,{number},jpeg" for number in (0, 1)]
    (tmp_path / "pairs.csv").write_text("\n".join(["reference,distorted,dmos,distortion", *rows]))
    series = SeveritySeries(tmp_path, KINDS, num_series=4, side_px=96, seed=0)
    pairs = RatedPairs(tmp_path / "pairs.csv")
    judged = [JudgedSet("s", "severity_series", series, 1), JudgedSet("r", "rated", pairs, 1)]
    return [
        TrainingSet(
            item,
            np.arange(len(item.examples)),
            np.arange(len(item.examples)) % 2,
            np.asarray(families_of(item)),
            ImageSource(item.kind, 1, item.examples, [], 96, 0),
        )
        for item in judged
    ]


@pytest.mark.parametrize(
    ("held_out", "unseen"),
    [
        (None, [[], []]),
        (1, [[1, 3], [1]]),
        ("compression", [[0, 2], []]),
        ("tone", [[1], []]),
        ("colour", [[3], []]),
    ],
)
def test_a_model_learns_from_all_but_a_fold_or_a_family(sets, held_out, unseen):
    assert sets[0].judged.examples.kinds == KINDS
    seen, others = split(sets, held_out)
    assert [positions.tolist() for positions in others] == unseen
    for one, two, item in zip(seen, others, sets, strict=True):
        assert sorted([*one, *two]) == item.shard.tolist()
