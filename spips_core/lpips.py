"""LPIPS v0.1 from the squared differences of features that a score computes anyway.

Zhang et al. 2018, Eq. (1). On torchvision's AlexNet or SqueezeNet 1.1, a SPIPS model takes the same
features as LPIPS: images normalised as for ImageNet, the same taps, vectors of length one. So LPIPS
is only another weighted sum of the means of their squared differences.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from spips_core.config import ModelConfig
from spips_core.errors import CheckpointError


def lpips_weights() -> dict[str, Path]:
    """Return the files with LPIPS's weights of the channels, by the name of the trunk.

    They are its authors', under a licence of their own (BSD-2-Clause) that lies beside them.
    """
    folder = Path(str(resources.files("spips_core"))) / "lpips_weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


class Lpips(nn.Module):
    """LPIPS's weighted sum; it has no state of its own in a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        """Read the weights for a model's trunk.

        Raises:
            CheckpointError: LPIPS is not defined for the model's features.
        """
        super().__init__()
        files = lpips_weights()
        got = f"{config.backbone}, {config.feature_norm}, streams {', '.join(config.streams)}"
        has_features = "percept" in config.streams or "semantic" in config.streams
        if config.backbone not in files or config.feature_norm != "unit" or not has_features:
            raise CheckpointError(
                f"lpips: expected a model with the trunk {' or '.join(files)}, feature_norm unit "
                f"and a percept or semantic stream, got {got}"
            )
        weights = safetensors.torch.load_file(files[config.backbone])
        self.num_taps = len(weights)
        for index in range(self.num_taps):
            # Not persistent: a checkpoint holds SPIPS's own weights alone.
            self.register_buffer(f"lin{index}", weights[f"lin{index}"], persistent=False)

    def forward(self, means: Sequence[Tensor]) -> Tensor:
        """Return the distance of every pair.

        Differs from the package: lengths of feature vectors are clamped to at least 1e-5, where
        LPIPS adds 1e-10 to them.

        Args:
            means: the means of Q_CNN, Eq. (6), of every tap, shallow to deep, (N, C_l).

        Returns:
            (N,) >= 0; 0 for identical images, lower is better.
        """
        weights = [self.get_buffer(f"lin{index}") for index in range(self.num_taps)]
        # Sums of products: a matrix product may round differently in batches of different size.
        taps = [(q * weight).sum(dim=1) for q, weight in zip(means, weights, strict=True)]
        distance: Tensor = sum(taps[1:], taps[0])
        return distance
