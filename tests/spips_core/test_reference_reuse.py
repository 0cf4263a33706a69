import pytest
import torch

from spips_core.reference_reuse import PairEncoder


@pytest.fixture
def different_pairs(seven_pairs):
    """Seven pairs of which no distorted image equals its reference."""
    return seven_pairs[0], 255 - seven_pairs[1]


@pytest.fixture
def encoded(embedded):
    """How many images go through the trunk, batch by batch; copies of a lone image do not count."""
    counts = []
    handle = embedded.trunk.register_forward_hook(
        lambda _, images, __: counts.append(len(images[0].flatten(1).unique_consecutive(dim=0)))
    )
    yield counts
    handle.remove()


def compare(model, encoder, references, distorted):
    return model.compare(*encoder.encode(references, distorted)).score


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("shared", "num_references"), [([0] * 7, 1), ([0, 0, 1, 2, 2, 2, 0], 4), (list(range(7)), 7)]
)
def test_a_shared_reference_is_encoded_once_and_scores_as_alone(
    embedded, different_pairs, encoded, shared, num_references, length
):
    references, distorted = different_pairs[0][shared], different_pairs[1]
    encoder = PairEncoder(embedded, batch_invariant=True)
    batches = [slice(start, start + length) for start in range(0, 7, length)]
    got = torch.cat([compare(embedded, encoder, references[b], distorted[b]) for b in batches])
    assert sum(encoded) == 7 + num_references
    expected = [
        compare(embedded, PairEncoder(embedded, batch_invariant=True), r[None], d[None])
        for r, d in zip(references, distorted, strict=True)
    ]
    assert torch.equal(got, torch.cat(expected))


def test_a_reference_of_another_size_is_not_reused(embedded, different_pairs, encoded):
    encoder = PairEncoder(embedded, batch_invariant=True)
    for width_px in (112, 100, 112):
        compare(embedded, encoder, *(images[:1, ..., :width_px] for images in different_pairs))
    assert sum(encoded) == 6


def test_a_reference_that_differs_in_one_byte_is_not_reused(embedded, different_pairs, encoded):
    references, distorted = (images[:1] for images in different_pairs)
    other = references.clone()
    other[0, 2, 95, 111] ^= 1
    encoder = PairEncoder(embedded, batch_invariant=True)
    for reference in (references, other):
        compare(embedded, encoder, reference, distorted)
    assert sum(encoded) == 4


def test_a_forgotten_reference_is_encoded_again(embedded, different_pairs, encoded):
    pair = [images[:1] for images in different_pairs]
    encoder = PairEncoder(embedded, batch_invariant=True)
    assert not encoder.has_reference
    compare(embedded, encoder, *pair)
    assert encoder.has_reference
    encoder.forget()
    assert not encoder.has_reference
    compare(embedded, encoder, *pair)
    assert sum(encoded) == 4


def test_a_caller_may_reuse_the_memory_of_its_batch(embedded, different_pairs):
    references, distorted = (images[:1].clone() for images in different_pairs)
    encoder = PairEncoder(embedded, batch_invariant=True)
    expected = compare(embedded, encoder, references, distorted)
    references += 1
    changed = compare(embedded, encoder, references, distorted)
    references -= 1
    assert torch.equal(compare(embedded, encoder, references, distorted), expected)
    assert not torch.equal(changed, expected)
