"""The scale that turns a score into the rating that people would give: the expected DMOS."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Self

import torch
from torch import Tensor

LARGEST_DMOS = 100.0


@dataclass(frozen=True)
class DmosScale:
    """A Weibull curve from a score s >= 0 to the DMOS that people give on average, 0 to 100.

        expected_dmos = 100 (1 - 2^(-(s / b)^a))

    `spips_core.learning.dmos_fit` fits it to ratings of references that the scoring model has not
    seen.

    Attributes:
        exponent: a > 0, the steepness.
        midpoint: b > 0, the score at which 50 is expected.
        half_width: half the width of the interval around the expected DMOS that holds 90 % of the
            ratings it was fitted to.
        num_ratings: number of these ratings.

    Raises:
        ValueError: a number is not finite, or not positive.
    """

    exponent: float
    midpoint: float
    half_width: float
    num_ratings: int

    def __post_init__(self) -> None:
        """Check every number."""
        for name, value in asdict(self).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
        if not (self.exponent > 0 and self.midpoint > 0):
            raise ValueError(
                f"expected exponent and midpoint above 0, got {self.exponent} and {self.midpoint}"
            )

    def expected_dmos(self, scores: Tensor) -> Tensor:
        """Return the expected DMOS of every score.

        Args:
            scores: any shape, >= 0.

        Returns:
            The same shape, float32 in [0, 100]: 0 for a score of 0, rising with the score.
        """
        # In double precision: the last bit of a float32 power depends on the batch size.
        halvings = (scores.double() / self.midpoint) ** self.exponent
        return (-LARGEST_DMOS * torch.expm1(-math.log(2) * halvings)).float()

    def to_json(self) -> str:
        """Return the scale as a checkpoint's metadata hold it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not JSON, or a number is missing, unknown or impossible.
        """
        content = json.loads(text)
        names = [field.name for field in fields(cls)]
        if not isinstance(content, dict) or sorted(content) != sorted(names):
            raise ValueError(f"expected_dmos: expected {', '.join(names)}, got {text}")
        return cls(**content)
