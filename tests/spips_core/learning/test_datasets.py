from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from jobs.demo import empty_png
from spips_core.decode import decode_image
from spips_core.errors import DatasetError
from spips_core.learning.datasets import (
    JustNoticeable,
    RatedPairs,
    SeveritySeries,
    Triplets,
    digest_of_examples,
    list_photographs,
    read_image,
)
from spips_core.learning.distortions import distort

SIZE = (16, 20)


def pixels(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_image(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path)
    return path


def as_tensor(array):
    return torch.tensor(array).permute(2, 0, 1)


def refuse(read, *parts):
    """Call, and check that one DatasetError says every part."""
    with pytest.raises(DatasetError) as error:
        read()
    for part in parts:
        assert str(part) in str(error.value)


def test_an_image_is_read_as_rgb_channels_first(tmp_path):
    image = read_image(write_image(tmp_path / "a.png"))
    assert torch.equal(image, as_tensor(pixels()))


@pytest.mark.parametrize(
    ("mode", "options"), [("RGBA", {}), ("LA", {}), ("P", {"transparency": 3}), ("CMYK", {})]
)
def test_an_image_is_read_as_the_pipeline_reads_it(tmp_path, mode, options):
    colours = Image.fromarray(np.dstack([pixels(), pixels(1)[..., 0]]), "RGBA")
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    (colours.convert("RGB") if mode == "P" else colours).convert(mode).save(path, **options)
    expected = decode_image(path.read_bytes(), max_pixels=10**6)
    assert torch.equal(read_image(path), as_tensor(np.array(expected)))


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(np.rot90(pixels(), -1).copy()))


def test_16_bit_samples_keep_their_high_byte(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 256 + 77).save(path)
    assert torch.equal(read_image(path), torch.tensor(pixels()[..., 0]).expand(3, -1, -1))


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(empty_png(12_000))
    refuse(lambda: read_image(path), f"{path}: expected at most 134217728 pixels")


def test_a_grey_image_gets_three_channels(tmp_path):
    Image.fromarray(pixels()[..., 0]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert torch.equal(image, torch.tensor(pixels()[..., 0]).expand(3, -1, -1))


def damage_missing(path):
    path.unlink()


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def damage_empty(path):
    path.write_bytes(b"")


def damage_text(path):
    path.write_text("not an image")


def damage_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [damage_missing, damage_truncated, damage_empty, damage_text, damage_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_image_is_named(tmp_path, damage):
    damage(write_image(tmp_path / "a.png"))
    refuse(lambda: read_image(tmp_path / "a.png"), tmp_path / "a.png", "expected an image")


def test_photographs_are_jpg_and_png_by_name(tmp_path):
    names = [f"{i * 7 % 16:x}.{suffix}" for i, suffix in enumerate(["png", "jpg"] * 8)]
    for name in (*names, "c.gif"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    assert [photo.name for photo in list_photographs(tmp_path)] == sorted(names)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_photographs_is_refused(tmp_path, exists):
    folder = tmp_path / "photos"
    if exists:
        folder.mkdir()
        write_image(folder / "a.gif")
    refuse(lambda: list_photographs(folder), folder, "expected .jpg or .png photographs, got none")


COLUMNS = {
    "reference": ["ref/a.png", "ref/a.png", "ref/b.png"],
    "distorted": ["a1.png", "a2.png", "b1.png"],
}


@pytest.fixture
def images(tmp_path):
    for seed, name in enumerate(["ref/a.png", "ref/b.png", "a1.png", "a2.png", "b1.png"]):
        write_image(tmp_path / name, seed)
    return tmp_path


def write_list(path, **columns):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in [columns, *rows]))
    return path


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


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_are_found_beside_their_list(images, suffix):
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
    columns = {"original": COLUMNS["reference"], "spoiled": COLUMNS["distorted"], "mos": [1, 2, 3]}
    path = write_list(images / "pairs.csv", **columns)
    pairs = RatedPairs(path, reference="original", distorted="spoiled")
    assert torch.equal(pairs[1].distorted[0], as_tensor(pixels(3)))
    expected = f"{path}: expected columns reference, distorted and either mos or dmos"
    refuse(lambda: RatedPairs(path), expected, "got original, spoiled, mos")


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


@pytest.mark.parametrize("change", ["rating", "pair", "kind", "image", "lost image"])
def test_the_digest_of_examples_tells_what_was_changed(images, change):
    columns = {"reference": ["ref/a.png"] * 2, "distorted": ["a1.png", "a2.png"]}
    columns |= {"dmos": [1, 2], "distortion": ["x", "y"]}
    before = digest_of_examples(RatedPairs(write_list(images / "pairs.csv", **columns)))
    assert digest_of_examples(RatedPairs(images / "pairs.csv")) == before
    if change == "rating":
        columns["dmos"] = [2, 1]
    elif change == "pair":
        columns["distorted"] = ["a2.png", "a1.png"]
    elif change == "kind":
        columns["distortion"] = ["x", "x"]
    elif change == "image":
        write_image(images / "a2.png", 77)
    else:
        (images / "a2.png").unlink()
    assert digest_of_examples(RatedPairs(write_list(images / "pairs.csv", **columns))) != before


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


STEMS = ("000001", "000002", "000010")
SHARES = (0.25, 1.0, 0.0)


def write_bapps(folder, image_folders, judged):
    """Write three examples in the layout of BAPPS; seeds count on over folders and examples."""
    seed = 0
    for name in image_folders:
        for stem in STEMS:
            write_image(folder / name / f"{stem}.png", seed)
            seed += 1
    (folder / judged).mkdir()
    for stem, share in zip(STEMS, SHARES, strict=True):
        np.save(folder / judged / f"{stem}.npy", np.array([share], np.float32))
    return folder


BAPPS = [
    pytest.param((Triplets, ("ref", "p0", "p1"), "judge"), id="triplets"),
    pytest.param((JustNoticeable, ("p0", "p1"), "same"), id="just noticeable"),
]


@pytest.fixture(params=BAPPS)
def bapps(request, tmp_path):
    """A data set's class, its folder, its folders of images, and that of judgements."""
    class_, image_folders, judged = request.param
    return class_, write_bapps(tmp_path / "cnn", image_folders, judged), image_folders, judged


def test_bapps_examples_are_images_and_the_share_of_people(bapps):
    class_, folder, image_folders, _ = bapps
    examples = class_(folder)
    assert len(examples) == 3
    assert examples.targets.tolist() == list(SHARES)
    assert examples.references == [f"cnn/{stem}" for stem in STEMS]
    for index in range(3):
        images = [as_tensor(pixels(index + 3 * k)) for k in range(len(image_folders))]
        example = examples[index]
        assert torch.equal(example.reference, images[0])
        assert torch.equal(example.distorted, torch.stack(images[1:]))
        assert example.target == SHARES[index]


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_bapps_folders_with_unequal_names_are_refused(bapps, suffix):
    class_, folder, image_folders, judged = bapps
    name = judged if suffix == ".npy" else image_folders[-1]
    (folder / name / f"{STEMS[1]}{suffix}").unlink()
    expected = f"{folder / name}: missing {STEMS[1]}{suffix}"
    refuse(lambda: class_(folder), "expected the same file names in each folder", expected)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_bapps_folder_is_refused(bapps, tmp_path, exists):
    class_, _, image_folders, judged = bapps
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    expected = ", ".join([*(f"{name}/*.png" for name in image_folders), f"{judged}/*.npy"])
    refuse(lambda: class_(folder), f"{folder}: expected files {expected}, got none")


@pytest.mark.parametrize(("share", "got"), [(-0.01, "-0.01"), (1.01, "1.01"), (np.nan, "nan")])
def test_a_share_outside_0_to_1_is_refused(bapps, share, got):
    class_, folder, _, judged = bapps
    path = folder / judged / f"{STEMS[2]}.npy"
    np.save(path, np.array([share]))
    refuse(lambda: class_(folder), f"{path}: expected a share in [0, 1], got {got}")


def test_a_share_without_dimensions_is_read(bapps):
    class_, folder, _, judged = bapps
    np.save(folder / judged / f"{STEMS[2]}.npy", np.float64(0.75))
    assert class_(folder).targets[2] == 0.75


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("0.5"),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: np.save(path, np.zeros(0)),
        lambda path: np.save(path, np.array(["half"])),
    ],
    ids=["empty", "text", "truncated", "no numbers", "strings"],
)
def test_an_unreadable_share_is_refused(bapps, write):
    class_, folder, _, judged = bapps
    path = folder / judged / f"{STEMS[0]}.npy"
    write(path)
    refuse(lambda: class_(folder), f"{path}: expected one number in a .npy file")


class Trap:
    """An object whose pickle, when it is loaded, makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).mkdir, (self.path,)


def test_a_pickled_share_is_refused_and_not_executed(bapps, tmp_path):
    class_, folder, _, judged = bapps
    path, sprung = folder / judged / f"{STEMS[0]}.npy", tmp_path / "sprung"
    np.save(path, np.array([Trap(sprung)], object), allow_pickle=True)
    refuse(lambda: class_(folder), f"{path}: expected one number in a .npy file")
    assert not sprung.exists()
    np.load(path, allow_pickle=True)
    assert sprung.exists()


@pytest.mark.parametrize("damage", [damage_truncated, damage_text])
def test_an_unreadable_bapps_image_is_named_when_it_is_asked_for(bapps, damage):
    class_, folder, image_folders, _ = bapps
    path = folder / image_folders[-1] / f"{STEMS[1]}.png"
    damage(path)
    examples = class_(folder)
    assert examples[0].target == SHARES[0]
    refuse(lambda: examples[1], f"{path}: expected an image")


def test_bapps_images_of_unequal_sizes_are_refused(bapps):
    class_, folder, image_folders, _ = bapps
    first, path = (folder / name / f"{STEMS[1]}.png" for name in (image_folders[0], "p1"))
    write_image(path, size=(17, 20))
    refuse(lambda: class_(folder)[1], f"{path}: expected 16 x 20 as in {first}, got 17 x 20")


def test_bapps_images_may_be_transparent(bapps):
    class_, folder, image_folders, _ = bapps
    rgba = np.dstack([pixels(99), np.full(SIZE, 255, np.uint8)])
    Image.fromarray(rgba).save(folder / image_folders[-1] / f"{STEMS[0]}.png")
    assert torch.equal(class_(folder)[0].distorted[-1], as_tensor(pixels(99)))


KINDS = ["gaussian_noise", "jpeg", "warped"]


@pytest.fixture
def photo_folder(tmp_path):
    folder = tmp_path / "photos"
    for seed in range(4):
        write_image(folder / f"{seed}.png", seed, (100, 110))
    return folder


def severity_series(folder, kinds=KINDS, *, num_series=10, side_px=96, seed=1):
    return SeveritySeries(folder, kinds, num_series=num_series, side_px=side_px, seed=seed)


def test_a_ladder_is_a_cut_of_its_photograph_at_five_rising_levels(photo_folder):
    set_ = severity_series(photo_folder)
    assert len(set_) == len(set_.kinds) == len(set_.references) == 10
    for index in (0, 3, 9):
        example = set_[index]
        assert example.distorted.shape == (5, *example.reference.shape) == (5, 3, 96, 96)
        photo = read_image(photo_folder / set_.references[index])
        windows = photo.unfold(1, 96, 1).unfold(2, 96, 1)
        found = (windows == example.reference[:, None, None]).all(dim=(0, 3, 4))
        assert found.sum() == 1
        cut = example.reference.permute(1, 2, 0).numpy()
        if set_.kinds[index] == "jpeg":
            expected = [as_tensor(distort(cut, "jpeg", level)) for level in range(1, 6)]
            assert torch.equal(example.distorted, torch.stack(expected))
        errors = (example.distorted - example.reference.float()).square().mean(dim=(1, 2, 3))
        assert (errors.diff() > 0).all()


def test_a_place_with_nothing_to_spoil_is_not_used(tmp_path):
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[100:, 100:] = pixels(1, (100, 100))
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "sky.png")
    for example in severity_series(tmp_path / "photos", ["gaussian_blur"], num_series=30):
        levels = [example.reference, *example.distorted]
        assert not any(torch.equal(a, b) for a, b in pairwise(levels))


def test_levels_of_a_ladder_share_their_random_numbers(photo_folder):
    example = severity_series(photo_folder, ["gaussian_noise"])[0]
    noise = (example.distorted[:2] - example.reference.float()).flatten(1)
    inside = (example.distorted[:2].flatten(1) % 255 > 0).all(dim=0)  # not clipped
    assert torch.corrcoef(noise[:, inside])[0, 1] > 0.95


def test_same_seed_gives_the_same_ladders_and_another_others(photo_folder):
    one, two, other = (severity_series(photo_folder, seed=seed) for seed in (1, 1, 2))
    assert (one.references, one.kinds) == (two.references, two.kinds)
    for index in (9, 0, 5):
        assert torch.equal(one[index].distorted, two[index].distorted)
        assert not torch.equal(one[index].distorted, other[index].distorted)


def test_ladders_of_one_photograph_and_kind_do_not_share_their_noise(photo_folder):
    def noise(seed, index):
        example = severity_series(photo_folder, ["gaussian_noise"], num_series=8, seed=seed)[index]
        return example.distorted[0].float() - example.reference

    noises = torch.stack([noise(1, 0), noise(1, 4), noise(2, 0)]).flatten(1)
    assert noises.std(dim=1).min() > 4
    assert torch.corrcoef(noises).sum().item() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("kinds", [KINDS, [*KINDS, "hue"]], ids=len)
def test_photographs_and_kinds_take_turns(photo_folder, kinds):
    set_ = severity_series(photo_folder, kinds, num_series=4 * len(kinds))
    assert sorted(set_.references[:4]) == ["0.png", "1.png", "2.png", "3.png"]
    assert set_.references == set_.references[:4] * len(kinds)
    assert [set_.kinds.count(kind) for kind in kinds] == [4] * len(kinds)
    pairs = set(zip(set_.references, set_.kinds, strict=True))
    assert len(pairs) == len(set_)


def test_unknown_kinds_are_refused_and_named(photo_folder):
    refuse(
        lambda: severity_series(photo_folder, ["jpeg", "jpg"]),
        "expected distortions among",
        "['jpg']",
    )
    refuse(lambda: severity_series(photo_folder, []), "expected distortions among")


def test_ladders_need_photographs_of_at_least_their_side(photo_folder, tmp_path):
    assert severity_series(photo_folder, side_px=100)[0].reference.shape == (3, 100, 100)
    set_ = severity_series(photo_folder, side_px=101)
    path = photo_folder / set_.references[0]
    refuse(lambda: set_[0], f"{path}: expected sides of at least 101 px")
    refuse(
        lambda: severity_series(tmp_path / "none"), f"{tmp_path / 'none'}: expected .jpg or .png"
    )
