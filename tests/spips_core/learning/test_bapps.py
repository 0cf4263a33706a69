import numpy as np
import pytest
import torch
from PIL import Image

from spips_core.learning.bapps import open_just_noticeable, open_triplets
from tests.spips_core.learning.conftest import (
    SIZE,
    as_tensor,
    damage_text,
    damage_truncated,
    pixels,
    refuse,
    write_image,
)

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
    pytest.param((open_triplets, ("ref", "p0", "p1"), "judge"), id="triplets"),
    pytest.param((open_just_noticeable, ("p0", "p1"), "same"), id="just noticeable"),
]


@pytest.fixture(params=BAPPS)
def bapps(request, tmp_path):
    """The function that opens a subset, its folder, the image folders, the judgement folder."""
    open_set, image_folders, judged = request.param
    return open_set, write_bapps(tmp_path / "cnn", image_folders, judged), image_folders, judged


def test_bapps_examples_are_images_and_the_share_of_people(bapps):
    open_set, folder, image_folders, _ = bapps
    examples = open_set(folder)
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
    open_set, folder, image_folders, judged = bapps
    name = judged if suffix == ".npy" else image_folders[-1]
    (folder / name / f"{STEMS[1]}{suffix}").unlink()
    expected = f"{folder / name}: missing {STEMS[1]}{suffix}"
    refuse(lambda: open_set(folder), "expected the same file names in each folder", expected)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_bapps_folder_is_refused(bapps, tmp_path, exists):
    open_set, _, image_folders, judged = bapps
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    expected = ", ".join([*(f"{name}/*.png" for name in image_folders), f"{judged}/*.npy"])
    refuse(lambda: open_set(folder), f"{folder}: expected files {expected}, got none")


@pytest.mark.parametrize(("share", "got"), [(-0.01, "-0.01"), (1.01, "1.01"), (np.nan, "nan")])
def test_a_share_outside_0_to_1_is_refused(bapps, share, got):
    open_set, folder, _, judged = bapps
    path = folder / judged / f"{STEMS[2]}.npy"
    np.save(path, np.array([share]))
    refuse(lambda: open_set(folder), f"{path}: expected a share in [0, 1], got {got}")


def test_a_share_without_dimensions_is_read(bapps):
    open_set, folder, _, judged = bapps
    np.save(folder / judged / f"{STEMS[2]}.npy", np.float64(0.75))
    assert open_set(folder).targets[2] == 0.75


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
    open_set, folder, _, judged = bapps
    path = folder / judged / f"{STEMS[0]}.npy"
    write(path)
    refuse(lambda: open_set(folder), f"{path}: expected one number in a .npy file")


class Trap:
    """An object whose pickle, when it is loaded, makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).mkdir, (self.path,)


def test_a_pickled_share_is_refused_and_not_executed(bapps, tmp_path):
    open_set, folder, _, judged = bapps
    path, sprung = folder / judged / f"{STEMS[0]}.npy", tmp_path / "sprung"
    np.save(path, np.array([Trap(sprung)], object), allow_pickle=True)
    refuse(lambda: open_set(folder), f"{path}: expected one number in a .npy file")
    assert not sprung.exists()
    np.load(path, allow_pickle=True)
    assert sprung.exists()


@pytest.mark.parametrize("damage", [damage_truncated, damage_text])
def test_an_unreadable_bapps_image_is_named_when_it_is_asked_for(bapps, damage):
    open_set, folder, image_folders, _ = bapps
    path = folder / image_folders[-1] / f"{STEMS[1]}.png"
    damage(path)
    examples = open_set(folder)
    assert examples[0].target == SHARES[0]
    refuse(lambda: examples[1], f"{path}: expected an image")


def test_bapps_images_of_unequal_sizes_are_refused(bapps):
    open_set, folder, image_folders, _ = bapps
    first, path = (folder / name / f"{STEMS[1]}.png" for name in (image_folders[0], "p1"))
    write_image(path, size=(17, 20))
    refuse(lambda: open_set(folder)[1], f"{path}: expected 16 x 20 as in {first}, got 17 x 20")


def test_bapps_images_may_be_transparent(bapps):
    open_set, folder, image_folders, _ = bapps
    rgba = np.dstack([pixels(99), np.full(SIZE, 255, np.uint8)])
    Image.fromarray(rgba).save(folder / image_folders[-1] / f"{STEMS[0]}.png")
    assert torch.equal(open_set(folder)[0].distorted[-1], as_tensor(pixels(99)))
