"""SPIPS, the Scene Perceived Image Perceptual Score (arXiv 2504.17234): what a score is.

The names below are imported when they are first used. So a process that needs only
`spips_core.decode` or `spips_core.errors` does not import torch, which takes 2 s and 200 MB.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spips_core.checkpoint import packaged_checkpoints
    from spips_core.checks import MIN_SIDE_PX
    from spips_core.config import ModelConfig
    from spips_core.dmos_scale import DmosScale
    from spips_core.encoding import Encoding
    from spips_core.errors import CheckpointError, CompilationError, ImageError, SpipsError
    from spips_core.model import SPIPS
    from spips_core.scores import Scores
else:
    _MODULES = {
        "packaged_checkpoints": "checkpoint", "MIN_SIDE_PX": "checks", "ModelConfig": "config",
        "DmosScale": "dmos_scale", "Encoding": "encoding", "SPIPS": "model", "Scores": "scores",
    }  # fmt: skip

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "MIN_SIDE_PX", "SPIPS", "CheckpointError", "CompilationError", "DmosScale", "Encoding",
    "ImageError", "ModelConfig", "Scores", "SpipsError", "packaged_checkpoints",
]  # fmt: skip
