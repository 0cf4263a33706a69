import copy
from itertools import product

import pytest
import torch

from spips_core import Encoding
from spips_core.trunk import BACKBONES

CASES = [
    *product(BACKBONES, [(9, 3, 96, 100), (9, 3, 140, 131)]),
    ("alexnet_slim", (57, 3, 96, 96)),  # eight times seven and one
    ("alexnet_slim", (8, 3, 256, 512)),  # the largest that go together
    ("alexnet_slim", (3, 3, 380, 384)),
]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("backbone", "size", "precision"),
    [
        (backbone, size, precision)
        for precision in (torch.float32, torch.bfloat16)
        for backbone, size in CASES
        if (backbone, precision) != ("vgg16", torch.bfloat16)
    ]
    # CPUs without bfloat16 instructions take half a second per image here.
    + [("vgg16", (3, 3, 96, 100), torch.bfloat16)],
)
def test_an_encoding_does_not_depend_on_the_batch(models, backbone, size, precision):
    model = copy.deepcopy(models[backbone])
    model.trunk.set_precision(precision)
    images = torch.randint(256, size, dtype=torch.uint8)
    together = model.encode(images, batch_invariant=True)
    for some in (slice(0, 1), slice(1, 3), slice(0, 3), slice(1, 7), slice(len(images) - 1, None)):
        apart = model.encode(images[some], batch_invariant=True)
        for one, other in zip(apart.features, together[some].features, strict=True):
            assert torch.equal(one, other)
    parts = model.encode_parts(images, [1, len(images) - 1], batch_invariant=True)
    assert [len(part) for part in parts] == [1, len(images) - 1]
    joined = Encoding.join(parts)
    for one, other in zip(
        [*joined.pyramid, *joined.features], [*together.pyramid, *together.features], strict=True
    ):
        assert torch.equal(one, other)
