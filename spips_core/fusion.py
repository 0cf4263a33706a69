"""Fusion of the stream means into the score: Eq. (12), or the abstract's perceptron."""

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN_UNITS = 16


class WeightedFusion(nn.Module):
    """Eq. (12): score = l1 tradition + l2 percept + l3 semantic, the weights positive, sum 1."""

    def __init__(self, num_streams: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_streams))

    @property
    def weights(self) -> Tensor:
        """(num_streams,): the lambdas, a softmax, so they add up to 1."""
        return torch.softmax(self.logits, dim=0)

    def forward(self, means: Tensor) -> Tensor:
        """Return the score of every pair.

        Args:
            means: (N, num_streams) >= 0.

        Returns:
            (N,) >= 0, lower is better.
        """
        return (means * self.weights).sum(dim=1)


class PerceptronFusion(nn.Module):
    """A perceptron with one hidden layer, increasing in every mean, and 0 when all means are 0.

    score = a . m + b . tanh(C m), with a, b, C > 0 and no biases.
    """

    def __init__(self, num_streams: int) -> None:
        super().__init__()
        self.skip = nn.Parameter(torch.zeros(num_streams))
        self.hidden = nn.Parameter(torch.randn(HIDDEN_UNITS, num_streams))
        self.output = nn.Parameter(torch.full((HIDDEN_UNITS,), -3.0))

    def forward(self, means: Tensor) -> Tensor:
        """Return the score of every pair.

        Args:
            means: (N, num_streams) >= 0.

        Returns:
            (N,) >= 0, lower is better.
        """
        hidden = torch.tanh((means[:, None, :] * functional.softplus(self.hidden)).sum(dim=2))
        linear = (means * functional.softplus(self.skip)).sum(dim=1)
        return linear + (hidden * functional.softplus(self.output)).sum(dim=1)

    @torch.no_grad()
    def rescale(self, factor: float, mean_factors: Tensor) -> None:
        """Change the scale of the score and of its inputs, in place.

        Args:
            factor: > 0; every score is multiplied by it.
            mean_factors: (num_streams,) > 0; the means will be multiplied by these.
        """
        hidden = functional.softplus(self.hidden.double()) / mean_factors
        self.hidden.copy_(_softplus_inverted(hidden))
        skip = functional.softplus(self.skip.double()) * factor / mean_factors
        self.skip.copy_(_softplus_inverted(skip))
        self.output.copy_(_softplus_inverted(functional.softplus(self.output.double()) * factor))


def _softplus_inverted(values: Tensor) -> Tensor:
    return values + torch.log(-torch.expm1(-values))
