"""SPIPS, the Scene Perceived Image Perceptual Score (arXiv 2504.17234): what a score is."""

from spips_core.checkpoint import packaged_checkpoints
from spips_core.checks import MIN_SIDE_PX
from spips_core.config import ModelConfig
from spips_core.encoding import Encoding
from spips_core.errors import CheckpointError, CompilationError, ImageError, SpipsError
from spips_core.model import SPIPS, Scores

__all__ = [
    "MIN_SIDE_PX",
    "SPIPS",
    "CheckpointError",
    "CompilationError",
    "Encoding",
    "ImageError",
    "ModelConfig",
    "Scores",
    "SpipsError",
    "packaged_checkpoints",
]
