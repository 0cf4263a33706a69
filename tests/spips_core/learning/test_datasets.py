import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.demo import empty_png
from spips_core.decode import decode_image
from spips_core.learning.datasets import (
    digest_of_examples,
    fold_of,
    list_photographs,
    read_image,
)
from spips_core.learning.rated_pairs import RatedPairs
from tests.spips_core.learning.conftest import (
    DAMAGES,
    as_tensor,
    pixels,
    refuse,
    write_image,
    write_list,
)


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


@pytest.mark.parametrize("change", ["rating", "pair", "kind", "image", "lost image"])
def test_the_digest_of_examples_tells_what_was_changed(images, change):
    columns = {"reference": ["ref/a.png"] * 2, "distorted": ["a1.png", "a2.png"]}
    columns |= {"dmos": [1, 2], "distortion": ["x", "y"]}
    before = digest_of_examples(RatedPairs(write_list(images / "pairs.csv", **columns)))
    copied = shutil.copytree(images, images / "copied", copy_function=shutil.copyfile)  # new times
    assert digest_of_examples(RatedPairs(copied / "pairs.csv")) == before
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


def test_folds_deal_out_references_and_keep_each_together():
    references = ["b", "a", "c", "a", "d", "b"]
    assert fold_of(references, 2).tolist() == [1, 0, 0, 0, 1, 1]


def test_a_picture_that_two_sets_share_is_in_one_fold():
    one, other = ["r0", "r1", "r2", "r3"], ["r1", "r2", "r3", "r4"]
    folds = [fold_of(references, 2, [*one, *other]).tolist() for references in (one, other)]
    assert folds == [[0, 1, 0, 1], [1, 0, 1, 0]]
