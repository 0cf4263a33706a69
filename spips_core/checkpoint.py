"""SPIPS checkpoints: one safetensors file that says what it is and what it must score.

The metadata holds the format's version, the model's config, how it was trained, the trunk's
digest, and the score of a known pair, which the model scores again whenever it is loaded.
"""

import dataclasses
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spips_core.config import ModelConfig
from spips_core.errors import CheckpointError

FORMAT_VERSION = "1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: the model's architecture.
        tensors: weights by name; without the trunk's, when those come from elsewhere.
        trunk_digest: sha256 of the trunk that the streams were made for.
        training: how the streams were fitted, free text by key; empty when they were not.
        known_pair_score: the score of `known_pair` in float32.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    trunk_digest: str
    training: dict[str, str]
    known_pair_score: float


def packaged_checkpoints() -> dict[str, Path]:
    """Return the checkpoints that the package ships, by name."""
    folder = Path(str(resources.files("spips_core"))) / "checkpoints"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file.

    Args:
        path: the file to write.
        checkpoint: what to put into it.
    """
    metadata = {
        "spips_version": FORMAT_VERSION,
        "config": json.dumps(dataclasses.asdict(checkpoint.config)),
        "trunk_digest": checkpoint.trunk_digest,
        "training": json.dumps(checkpoint.training),
        "known_pair_score": repr(checkpoint.known_pair_score),
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    # Not save_file, whose files only their owner may read, which hides them on a shared disk.
    Path(path).write_bytes(safetensors.torch.save(tensors, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file as data; nothing in it is executed.

    Args:
        path: the file.

    Returns:
        Its content, tensors in float32.

    Raises:
        CheckpointError: the file is missing, damaged, no SPIPS checkpoint, or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        names = ", ".join(packaged_checkpoints())
        raise CheckpointError(
            f"checkpoint {path}: expected a safetensors file, or one of the package ({names}): "
            f"{error}"
        ) from error
    version = metadata.get("spips_version")
    if version != FORMAT_VERSION:
        got = "none: not a SPIPS checkpoint" if version is None else version
        raise CheckpointError(f"checkpoint {path}: expected version {FORMAT_VERSION}, got {got}")
    try:
        fields, training = json.loads(metadata["config"]), json.loads(metadata["training"])
        if not isinstance(training, dict):
            raise TypeError(f"expected training as text by key, got {type(training).__name__}")
        return Checkpoint(
            config=ModelConfig(**{**fields, "streams": tuple(fields["streams"])}),
            tensors=tensors,
            trunk_digest=metadata["trunk_digest"],
            training=training,
            known_pair_score=float(metadata["known_pair_score"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: metadata cannot be read: {error}") from error


def known_pair() -> tuple[Tensor, Tensor]:
    """Return a pair that integer arithmetic alone makes, so that it is the same everywhere.

    Returns:
        Reference and distorted, uint8 (1, 3, 96, 128): ramps and a checkerboard; the distorted
        one is quantised to 16 levels and shifted by a pixel.
    """
    rows = torch.arange(96).view(1, 96, 1)
    columns = torch.arange(128).view(1, 1, 128)
    colours = torch.arange(3).view(3, 1, 1)
    ramps = rows * (2 + colours) + columns * (3 - colours)
    checkers = (rows // 8 + columns // 8) % 2 * 48
    reference = (ramps + checkers) % 256
    distorted = reference.roll(1, dims=2) // 16 * 16
    return reference[None].to(torch.uint8), distorted[None].to(torch.uint8)
