import numpy as np
import pytest
import torch

from spips_core.learning.rated_pairs import RatedPairs
from tests.spips_core.learning.conftest import (
    COLUMNS,
    DAMAGES,
    as_tensor,
    pixels,
    refuse,
    write_image,
    write_list,
)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "ratings", "dmos"),
    [
        ("mos", [4.5, 2.5, 0.5], [0, 50, 100]),
        ("dmos", [4.5, 2.5, 0.5], [100, 50, 0]),
        ("dmos", [-10, 190, 40], [0, 100, 25]),
        ("mos", [1, 5, 2], [100, 0, 75]),
    ],
)
def test_ratings_become_dmos_from_0_to_100(images, suffix, name, ratings, dmos):
    path = write_list(images / f"pairs.{suffix}", **COLUMNS, **{name: ratings})
    pairs = RatedPairs(path)
    np.testing.assert_allclose(pairs.targets, dmos, atol=1e-12)
    assert [pairs[i].target for i in range(len(pairs))] == pairs.targets.tolist()


@pytest.mark.parametrize(("name", "dmos"), [("dmos", [-10, 190, 40]), ("mos", [100, 0, 75])])
def test_ratings_for_the_scale_are_the_dmos_as_listed_or_the_stretched_mos(images, name, dmos):
    path = write_list(images / "pairs.csv", **COLUMNS, **{name: [-10, 190, 40]})
    whole, quarters = RatedPairs(path), RatedPairs(path, quarters=True)
    np.testing.assert_allclose(whole.dmos, dmos)
    np.testing.assert_array_equal(quarters.dmos, np.repeat(whole.dmos, 4))
    assert (whole.is_whole, quarters.is_whole) == (True, False)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_relative_paths_start_at_the_folder_of_the_list(images, suffix):
    pairs = RatedPairs(write_list(images / f"pairs.{suffix}", **COLUMNS, mos=[1, 2, 3]))
    assert len(pairs) == 3
    assert pairs.references == COLUMNS["reference"]
    assert pairs.files[:2] == [images / COLUMNS[name][0] for name in ("reference", "distorted")]
    for index, seeds in enumerate([(0, 2), (0, 3), (1, 4)]):
        reference, distorted = (as_tensor(pixels(seed)) for seed in seeds)
        assert torch.equal(pairs[index].reference, reference)
        assert torch.equal(pairs[index].distorted, distorted[None])


def test_absolute_paths_are_taken_as_they_are(images, tmp_path_factory):
    columns = {key: [str(images / name) for name in names] for key, names in COLUMNS.items()}
    path = tmp_path_factory.mktemp("elsewhere") / "pairs.csv"
    pairs = RatedPairs(write_list(path, **columns, mos=[1, 2, 3]))
    assert torch.equal(pairs[2].distorted[0], as_tensor(pixels(4)))


def test_other_column_names_can_be_given(images):
    columns = {"original": COLUMNS["reference"], "altered": COLUMNS["distorted"], "mos": [1, 2, 3]}
    path = write_list(images / "pairs.csv", **columns)
    pairs = RatedPairs(path, reference="original", distorted="altered")
    assert torch.equal(pairs[1].distorted[0], as_tensor(pixels(3)))
    expected = f"{path}: expected columns reference, distorted and either mos or dmos"
    refuse(lambda: RatedPairs(path), expected, "got original, altered, mos")


def test_quarters_are_the_pairs_cut_in_four_with_the_rating_of_the_whole(images):
    columns = {**COLUMNS, "mos": [1, 2, 3], "distortion": ["jpeg", "blur", "noise"]}
    path = write_list(images / "pairs.csv", **columns)
    whole, quarters = RatedPairs(path), RatedPairs(path, quarters=True)
    assert len(quarters) == 12
    for name in ("targets", "references", "kinds"):
        got, expected = (list(getattr(set_, name)) for set_ in (quarters, whole))
        assert got == [value for value in expected for _ in range(4)]
    for image in ("reference", "distorted"):
        parts = [getattr(quarters[4 + part], image) for part in range(4)]
        rows = [torch.cat(parts[start : start + 2], dim=-1) for start in (0, 2)]
        full = getattr(whole[1], image)
        height, width = (side // 2 * 2 for side in full.shape[-2:])
        assert torch.equal(torch.cat(rows, dim=-2), full[..., :height, :width])


def test_kinds_are_the_column_distortion(images):
    columns = {**COLUMNS, "mos": [1, 2, 3]}
    path = images / "pairs.csv"
    assert RatedPairs(write_list(path, **columns)).kinds == ["", "", ""]
    columns["distortion"] = ["jpeg", "blur", "jpeg"]
    assert RatedPairs(write_list(path, **columns)).kinds == columns["distortion"]


@pytest.mark.parametrize(
    "columns",
    [
        {**COLUMNS},
        {**COLUMNS, "mos": [1, 2, 3], "dmos": [3, 2, 1]},
        {"reference": COLUMNS["reference"], "mos": [1, 2, 3]},
        {"distorted": COLUMNS["distorted"], "dmos": [1, 2, 3]},
    ],
    ids=["no rating", "two ratings", "no distorted", "no reference"],
)
def test_missing_columns_and_two_ratings_are_refused(tmp_path, columns):
    path = write_list(tmp_path / "pairs.parquet", **columns)
    expected = f"{path}: expected columns reference, distorted and either mos or dmos, got "
    refuse(lambda: RatedPairs(path), expected + ", ".join(columns))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_list_without_rows_is_refused(tmp_path, suffix):
    path = write_list(tmp_path / f"pairs.{suffix}", reference=[], distorted=[], mos=[])
    refuse(lambda: RatedPairs(path), f"{path}: expected rated pairs, got none")


@pytest.mark.parametrize(
    ("rating", "message"),
    [
        ("good", "expected numbers in dmos: "),
        ("nan", "expected a number in dmos, row 1, got nan"),
        ("", "expected a number in dmos, row 1, got nan"),
        ("inf", "expected a number in dmos, row 1, got inf"),
    ],
)
def test_a_rating_that_is_no_number_is_refused(tmp_path, rating, message):
    path = write_list(tmp_path / "pairs.csv", **COLUMNS, dmos=[1, rating, 3])
    refuse(lambda: RatedPairs(path), f"{path}: {message}")


def test_a_null_rating_is_refused(tmp_path):
    path = write_list(tmp_path / "pairs.parquet", **COLUMNS, mos=[1.0, 2.0, None])
    refuse(lambda: RatedPairs(path), f"{path}: expected a number in mos, row 2, got nan")


@pytest.mark.parametrize("path", [None, ""])
def test_a_path_that_is_none_is_refused(tmp_path, path):
    write_list(tmp_path / "p.parquet", reference=["a.png", path], distorted=["b", "c"], mos=[1, 2])
    refuse(
        lambda: RatedPairs(tmp_path / "p.parquet"),
        f"p.parquet: expected a path in reference, row 1, got {path!r}",
    )


def test_a_path_that_is_a_number_is_refused(tmp_path):
    path = write_list(tmp_path / "p.csv", reference=["a", "a"], distorted=[1, 2], mos=[1, 2])
    refuse(lambda: RatedPairs(path), "p.csv: expected a path in distorted, row 0, got 1")


def test_equal_ratings_are_refused(tmp_path):
    path = write_list(tmp_path / "pairs.csv", **COLUMNS, mos=[3.5] * 3)
    refuse(lambda: RatedPairs(path), f"{path}: expected different ratings, got 3.5 only")


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b'a,b\n"\n', None])
def test_an_unreadable_list_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    refuse(lambda: RatedPairs(path), path)


@pytest.mark.parametrize("name", ["pairs.txt", "pairs", "pairs.csv.gz"])
def test_another_kind_of_list_is_refused(images, name):
    path = write_list(images / name, **COLUMNS, mos=[1, 2, 3])
    refuse(lambda: RatedPairs(path), f"{path}: expected a .parquet or .csv file")


@pytest.mark.parametrize("name", ["ref/a.png", "a2.png"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_image_of_a_pair_is_named(images, name, damage):
    pairs = RatedPairs(write_list(images / "pairs.csv", **COLUMNS, mos=[1, 2, 3]))
    damage(images / name)
    refuse(lambda: pairs[1], f"{images / name}: expected an image")
    assert pairs[2].target == 0


def test_a_pair_of_unequal_sizes_is_refused(images):
    pairs = RatedPairs(write_list(images / "pairs.csv", **COLUMNS, mos=[1, 2, 3]))
    write_image(images / "a2.png", size=(16, 21))
    expected = f"{images / 'a2.png'}: expected the reference's size 16 x 20, got 16 x 21"
    refuse(lambda: pairs[1], expected)
