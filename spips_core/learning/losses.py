"""The losses of training, one for each kind of judgement.

All but LPIPS's loss compare the logarithms of scores. People's ratings grow about as the logarithm
of a squared difference, and shrinking all scores does not lower a loss on ratios.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from spips_core.learning.metrics import CLEAR_DIFFERENCE

SMALLEST_SCORE = 1e-8
RATING_TEMPERATURE = 0.1
SEVERITY_TEMPERATURE = 0.2
"""A loss is linear in larger differences of log scores; both were chosen by cross-validation."""
CLEAR_VERDICT = 0.3
"""The jury's order of two images counts if their mean ranks, in (0, 1], differ by more."""
MAX_COMPARED = 512
"""Comparisons grow with the square of the images: a whole batch of series would take most of the
time, and teach no more."""
STEP = 0.1
"""The logarithm of the score should rise by at least this much from level to level."""


class PreferenceNet(nn.Module):
    """LPIPS's G (Zhang et al. 2018, section 3): from two scores to the share that prefers one.

    It is trained with the model and then thrown away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2),
            nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, scores_0: Tensor, scores_1: Tensor) -> Tensor:
        """Return the logit of the share of people who prefer the second image, (N,).

        The scores are (N,) >= 0, lower is better.
        """
        d0, d1 = scores_0, scores_1
        channels = [d0, d1, d0 - d1, d0 / (d1 + 0.1), d1 / (d0 + 0.1)]
        logits: Tensor = self.layers(torch.stack(channels, dim=1))
        return logits.squeeze(1)


def preference_loss(net: PreferenceNet, scores: Tensor, preferences: Tensor) -> Tensor:
    """Return LPIPS's loss on triplets: the binary cross entropy of G(d0, d1) and the preference.

    Args:
        net: G, trained with the model.
        scores: (N, 2) of the two distorted images.
        preferences: (N,) in [0, 1], the share of people who preferred the second.
    """
    logits = net(scores[:, 0], scores[:, 1])
    return functional.binary_cross_entropy_with_logits(logits, preferences)


def rating_loss(scores: Tensor, dmos: Tensor) -> Tensor:
    """Return RankNet's loss (Burges et al. 2005) on rated pairs: the cross entropy of their order.

    It compares every two pairs of the batch whose ratings differ by more than 5.

    Args:
        scores: (N, 1) or (N,) >= 0, lower is better.
        dmos: (N,), higher is worse, on a scale of 100.

    Returns:
        A scalar >= 0; 0 when no two ratings differ by more than 5.
    """
    return _order_loss(scores, dmos[:, None] - dmos[None] > CLEAR_DIFFERENCE)


def within_reference_loss(scores: Tensor, dmos: Tensor, references: Tensor) -> Tensor:
    """Return the same loss over pairs that share a reference only.

    They are few, but they are what a user compares: two versions of one picture. References (N,)
    with equal numbers are the same.
    """
    is_clear = dmos[:, None] - dmos[None] > CLEAR_DIFFERENCE
    return _order_loss(scores, is_clear & (references[:, None] == references[None]))


def _order_loss(scores: Tensor, is_worse: Tensor) -> Tensor:
    """Return the mean cross entropy of the pairs (i, j) where i is worse than j."""
    logs = (scores.reshape(-1) + SMALLEST_SCORE).log()
    rises = (logs[:, None] - logs[None])[is_worse]
    if len(rises) == 0:
        return logs.sum() * 0
    return functional.softplus(-rises / RATING_TEMPERATURE).mean()


def jury_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """Return RankNet's loss on the order of images of a batch whose ranks differ clearly.

    It compares every two of at most `MAX_COMPARED` images, drawn at random.

    Args:
        scores: (N, levels) >= 0, lower is better.
        ranks: (N, levels), the jury's mean ranks, higher is worse; NaN where it has no say.

    Returns:
        A scalar >= 0; 0 when no two ranks differ clearly.
    """
    drawn = torch.randperm(ranks.numel(), device=ranks.device)[:MAX_COMPARED]
    few = ranks.reshape(-1)[drawn]
    return _order_loss(scores.reshape(-1)[drawn], few[:, None] - few[None] > CLEAR_VERDICT)


def severity_loss(scores: Tensor) -> Tensor:
    """Return the loss on severity series (N, levels), weak to strong; a scalar >= 0.

    The log score should rise by `STEP` at every level.
    """
    rises = (scores + SMALLEST_SCORE).log().diff(dim=1)
    return functional.softplus((STEP - rises) / SEVERITY_TEMPERATURE).mean()
