"""What several tests of learning share.

Image files, lists of rated pairs, and ways to damage them; made-up quality means, and a training.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from spips_core import SPIPS, ModelConfig
from spips_core.errors import DatasetError
from spips_core.learning.batches import EmbeddedSource, epoch_batches
from spips_core.learning.datasets import Example
from spips_core.learning.train import make_optimizer, rate_factor, train_epoch
from spips_core.learning.trainee import Trainee, channel_scales

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


def make_source(model, kind, num, k, seed, weight=1.0, useful_every=1):
    """Return made-up quality means that grow with the targets, each channel on its own scale.

    Of the channels only every `useful_every`-th grows; the others are noise.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = {
        name: [conv.in_channels for conv in stream.convs] for name, stream in model.streams.items()
    }
    strength = torch.rand(num, k, generator=generator).sort(dim=1).values + 0.05
    means = {}
    for name, sizes in channels.items():
        means[name] = []
        for size in sizes:
            scale = 10 ** torch.empty(size).uniform_(-4, 0, generator=generator)
            noise = torch.rand(num, k, size, generator=generator)
            grows = (torch.arange(size) % useful_every == 0).float()
            means[name].append((strength[..., None] * grows + 0.3 * noise) * scale)
    if kind == "triplets":
        targets = (strength[:, 0] > strength[:, 1]).float()
    else:
        targets = 100 * strength[:, 0]
    return EmbeddedSource(kind, weight, targets, torch.arange(num) % 5, means)


def batches_of_one(source):
    """Yield every example as a batch."""
    return source.batches([[i] for i in range(len(source.targets))])


def trainee_of(model, sources, **options):
    """Return a trainee whose scales come from the sources."""
    members = [np.arange(len(source.targets)) for source in sources]
    steps = epoch_batches(sources, members, batch_size=16, num_steps=4, seed=0)
    torch.manual_seed(0)
    return Trainee(model, channel_scales(model, steps), **options)


def train(trainee, sources, num_epochs, first=0, optimizer=None, learning_rate=0.02):
    """Train for some epochs and return their losses."""
    optimizer = optimizer or make_optimizer(
        trainee, learning_rate=learning_rate, trunk_learning_rate=None
    )
    members = [np.arange(len(source.targets)) for source in sources]
    losses = []
    for epoch in range(first, num_epochs):
        torch.manual_seed(epoch)
        steps = epoch_batches(sources, members, batch_size=16, num_steps=4, seed=epoch)
        factor = rate_factor(epoch, num_epochs)
        losses.append(train_epoch(trainee, optimizer, steps, factor=factor))
    return losses


@pytest.fixture(params=["weighted", "mlp"])
def model(request):
    return SPIPS.untrained(ModelConfig(fusion=request.param))


class Pairs:
    """Three rated pairs, as a data set."""

    def __init__(self, references, distorted):
        self.references = ["a", "b", "c"]
        self.targets = np.array([10.0, 50.0, 90.0])
        self._images = references, distorted

    def __len__(self):
        return 3

    def __getitem__(self, index):
        references, distorted = self._images
        return Example(references[index], distorted[index][None], float(self.targets[index]))
