import io

import numpy as np
import pytest
import torch
from PIL import Image

from spips_core.errors import DatasetError
from spips_core.learning.distill import Distillation, DistortedCrops, tap_loss
from spips_core.trunk import Trunk

KINDS = ["gaussian_noise", "jpeg", "missing_patches"]


@pytest.fixture
def features():
    """(8, 16, 6, 7): four references, then their slightly distorted versions."""
    generator = torch.Generator().manual_seed(5)
    references = torch.rand(4, 16, 6, 7, generator=generator)
    noise = torch.rand(4, 16, 6, 7, generator=generator)
    return torch.cat([references, references + 0.3 * noise])


def loss_of(student, teacher):
    torch.manual_seed(0)
    return tap_loss(student, teacher).item()


def turned(features, size):
    """Turn the vector at every position by one random orthogonal matrix, after adding zeros."""
    generator = torch.Generator().manual_seed(6)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    wider = torch.cat([features, torch.zeros(8, size - features.shape[1], 6, 7)], dim=1)
    return torch.einsum("ij,njhw->nihw", turn, wider)


def test_equal_features_lose_nothing(features):
    assert loss_of(features, features) == 0


@pytest.mark.parametrize("size", [16, 24])
def test_turned_features_lose_nothing_with_any_number_of_channels(features, size):
    assert loss_of(turned(features, size), features) == pytest.approx(0, abs=1e-5)
    assert loss_of(features, turned(features, size)) == pytest.approx(0, abs=1e-5)


def test_length_of_the_vectors_does_not_matter(features):
    lengths = 0.5 + torch.rand(8, 1, 6, 7, generator=torch.Generator().manual_seed(7))
    assert loss_of(lengths * features, features) == pytest.approx(0, abs=1e-5)


def test_other_features_lose(features):
    other = torch.rand(features.shape, generator=torch.Generator().manual_seed(8))
    assert loss_of(other, features) > 1
    slightly = 0.05 * other + features
    assert 0.001 < loss_of(slightly, features) < loss_of(other, features)


def test_a_student_that_sees_no_difference_loses_at_least_1(features):
    same_for_both = features[:4].repeat(2, 1, 1, 1)
    assert loss_of(same_for_both, features) > 0.99


def test_a_student_that_sees_all_positions_alike_loses(features):
    # The distances within pairs are right; only the cosines between positions tell.
    flat = torch.zeros(8, 2, 6, 7)
    ours = features / features.square().sum(dim=1, keepdim=True).sqrt()
    distance = (ours[:4] - ours[4:]).square().sum(dim=1).sqrt()
    angle = 2 * torch.asin(distance / 2)
    flat[:4, 0], flat[4:, 0], flat[4:, 1] = 1, angle.cos(), angle.sin()
    assert loss_of(flat, features) > 0.5


def test_identical_pairs_keep_the_gradient_finite(features):
    student = features[:4].repeat(2, 1, 1, 1).requires_grad_()
    tap_loss(student, features).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


@pytest.fixture
def photo_folder(photos, tmp_path):
    for index, photo in enumerate(photos):
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    return tmp_path


def crops(folder, *, length=24, side_px=96, seed=0, kinds=KINDS):
    return DistortedCrops(folder, kinds, length=length, side_px=side_px, seed=seed)


def test_crops_are_the_same_for_the_same_seed_only(photo_folder):
    one, two, other = (crops(photo_folder, seed=seed) for seed in (0, 0, 1))
    assert len(one) == 24
    for index in (23, 4, 0):
        for a, b, c in zip(one[index], two[index], other[index], strict=True):
            assert (a.shape, a.dtype) == ((3, 96, 96), torch.uint8)
            assert torch.equal(a, b)
            assert not torch.equal(a, c)
    assert not torch.equal(one[0][0], one[1][0])


def test_distorted_crop_differs_from_its_reference(photo_folder):
    pairs = crops(photo_folder, kinds=["gaussian_noise"])
    for index in range(24):
        reference, distorted = pairs[index]
        difference = distorted.float() - reference
        assert 1 < difference.square().mean().sqrt() < 70


def test_a_photograph_is_decoded_once(photo_folder):
    pairs = crops(photo_folder)
    expected = [pairs[index][1] for index in range(24)]
    for path in photo_folder.iterdir():
        path.unlink()
    assert all(torch.equal(pairs[index][1], other) for index, other in enumerate(expected))


def test_crops_need_photographs(tmp_path):
    with pytest.raises(DatasetError, match=r"expected \.jpg or \.png photographs, got none"):
        crops(tmp_path)


def trunk(seed):
    torch.manual_seed(seed)
    made = Trunk("alexnet_slim")
    made.initialise()
    return made


def test_student_learns_from_normalized_images(photo_folder):
    student = trunk(1)
    student.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    seen = []
    pairs = crops(photo_folder, length=2)
    list(
        Distillation(
            student, trunk(2), pairs, batch_size=1, learning_rate=1e-3, num_loaders=0
        ).run()
    )
    expected = student.normalized(torch.stack(pairs[1]) / 255)
    assert torch.allclose(seen[-1], expected, atol=1e-5)


def distillation(folder, *, num_steps=12, student_seed=1):
    pairs = crops(folder, length=4 * num_steps + 3)
    return Distillation(
        trunk(student_seed), trunk(2), pairs, batch_size=4, learning_rate=3e-3, num_loaders=0
    )


def test_distillation_lowers_the_loss_of_every_tap(photo_folder):
    distilled = distillation(photo_folder, num_steps=30)
    losses = np.array(list(distilled.run()))
    assert losses.shape == (30, 5)
    assert (distilled.step, distilled.num_steps) == (30, 30)
    assert (losses[-5:].mean(axis=0) < 0.8 * losses[:5].mean(axis=0)).all()


def test_distillation_changes_the_student_and_not_the_teacher(photo_folder):
    teacher, student = trunk(2), trunk(1)
    before = teacher.digest(), student.digest()
    distilled = Distillation(
        student, teacher, crops(photo_folder, length=2), batch_size=1, learning_rate=1e-3,
        num_loaders=0,
    )  # fmt: skip
    list(distilled.run())
    assert teacher.digest() == before[0]
    assert student.digest() != before[1]


def test_stopping_and_restoring_gives_the_same_weights_to_the_bit(photo_folder):
    whole = distillation(photo_folder, num_steps=6)
    expected = list(whole.run())
    first = distillation(photo_folder, num_steps=6)
    steps = first.run()
    losses = [next(steps) for _ in range(4)]
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = distillation(photo_folder, num_steps=6, student_seed=7)
    second.restore(torch.load(file, weights_only=True))
    torch.manual_seed(99)  # a new process may have drawn any numbers before
    losses += second.run()
    assert losses == expected
    assert second.student.digest() == whole.student.digest()


def test_a_finished_distillation_has_nothing_left_to_do(photo_folder):
    first = distillation(photo_folder, num_steps=2)
    list(first.run())
    second = distillation(photo_folder, num_steps=2)
    second.restore(first.state())
    assert list(second.run()) == []
    assert second.student.digest() == first.student.digest()
