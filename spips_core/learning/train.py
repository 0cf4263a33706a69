"""Fit a SPIPS model to what people judged: the optimizer and one epoch. Knows no Ray, no storage.

LPIPS's recipe (Zhang et al. 2018), as the paper asks. Rated pairs and severity series are added to
its triplets.

In mode `lin` the trunk is frozen. With weights >= 0 a score depends only on the means of the
quality maps. So each data set passes through the trunk once, and training uses the means.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from spips_core.learning.batches import Batch
from spips_core.learning.trainee import Trainee, convs_of

ADAM_BETAS = (0.9, 0.99)
"""Large batches of a few hundred ratings need only a short memory of squared gradients."""


def make_optimizer(
    trainee: Trainee, *, learning_rate: float, trunk_learning_rate: float | None
) -> torch.optim.Adam:
    """Return Adam whose steps change every quality channel's part in the score by the same amount.

    The streams' weights start at 1 / channels. Steps relative to that start would hardly move the
    many channels of the last maps, which cost .002 of SRCC with AlexNet's trunk.

    `learning_rate` is the highest of a weight that starts at 1. The streams' rates are lower, by
    the mean of their starts. `trunk_learning_rate` is the trunk's highest; None leaves it frozen.
    """
    model = trainee.model
    widths = [parameter.shape[1] for parameter in model.streams.parameters()]
    mean_start = len(widths) / sum(widths)
    rates: list[tuple[nn.Module, float]] = [
        *((s, learning_rate * mean_start * len(convs_of(s))) for s in model.streams.values()),
        (model.fusion, learning_rate),
        (trainee.preference, learning_rate),
    ]
    if trunk_learning_rate is not None:
        rates.append((model.trunk.requires_grad_(True), trunk_learning_rate))
    groups = [{"params": list(m.parameters()), "lr": r, "highest_lr": r} for m, r in rates]
    return torch.optim.Adam(groups, betas=ADAM_BETAS)


def rate_factor(epoch: int, num_epochs: int) -> float:
    """Return the factor of the learning rates in an epoch: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * epoch / num_epochs))


def train_epoch(
    trainee: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterator[list[Batch]],
    *, factor: float,
) -> float:  # fmt: skip
    """Train for one epoch at a factor of the learning rates, and return the mean loss.

    The trainee is a `Trainee`, or one wrapped for training in several processes.
    """
    unwrapped: Any = getattr(trainee, "module", trainee)
    trainee.train()
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * factor
    losses = []
    for batches in steps:
        loss = trainee(batches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        unwrapped.clamp_streams()
        losses.append(loss.item())
    return float(np.mean(losses))
