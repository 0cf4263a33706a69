"""The architecture of a SPIPS model; every checkpoint records it."""

from dataclasses import dataclass
from typing import Literal

from spips_core.errors import CheckpointError
from spips_core.trunk import BACKBONES

STREAMS = ("tradition", "percept", "semantic")
"""The three streams of the paper, in the order of Eq. (12)."""


@dataclass(frozen=True)
class ModelConfig:
    """A model's architecture.

    Attributes:
        backbone: name of the convolutional trunk, a key of `BACKBONES`.
        streams: the streams that are fused. The paper's two ablations leave out "semantic" or
            "tradition".
        fusion: "weighted" is Eq. (12); "mlp" is the abstract's multilayer perceptron, which never
            decreases when a stream rises and is 0 for identical images.
        feature_norm: "unit" scales each feature vector to length one before Eq. (6), as LPIPS
            does; "none" does not.

    Raises:
        CheckpointError: an unknown name, or no stream at all.
    """

    backbone: str = "alexnet_slim"
    streams: tuple[str, ...] = STREAMS
    fusion: Literal["weighted", "mlp"] = "weighted"
    feature_norm: Literal["unit", "none"] = "unit"

    def __post_init__(self) -> None:
        """Check every name."""
        ordered = tuple(stream for stream in STREAMS if stream in self.streams)
        if not ordered or ordered != self.streams:
            raise CheckpointError(
                f"streams: expected some of {STREAMS} in order, got {self.streams}"
            )
        for name, value, known in (
            ("backbone", self.backbone, tuple(BACKBONES)),
            ("fusion", self.fusion, ("weighted", "mlp")),
            ("feature_norm", self.feature_norm, ("unit", "none")),
        ):
            if value not in known:
                raise CheckpointError(f"{name}: expected one of {known}, got {value!r}")
