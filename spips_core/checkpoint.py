"""SPIPS checkpoints: safetensors files that describe themselves and are checked when loaded.

The metadata holds the format version, the model's config, how it was trained, the trunk's digest,
the score of a known pair, and the scale of the expected DMOS if there is one. Every load scores the
known pair again and compares.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spips_core.config import ModelConfig
from spips_core.dmos_scale import DmosScale
from spips_core.errors import CheckpointError
from spips_core.trunk import digest_of, load_strictly, load_trunk_weights

if TYPE_CHECKING:
    from spips_core.model import SPIPS

FORMAT_VERSION = "3"
"""Raised whenever the same weights give other results. Version 2: MS-SSIM's means are taken at each
scale's own size, which changes scores where a side is not a multiple of 16. Version 3: another map
of PSNR, and a scale of the expected DMOS."""

KNOWN_PAIR_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Largest relative difference from the known pair's recorded score, by the trunk's precision."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        config: the model's architecture.
        tensors: weights by name; without the trunk's if those come from another file.
        trunk_digest: sha256 of the trunk that the streams were trained for.
        training: how the streams were fitted, free text by key; empty if they were not.
        known_pair_score: the score of `known_pair` in float32.
        dmos_scale: what turns a score into the expected DMOS; None if nothing was fitted.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    trunk_digest: str
    training: dict[str, str]
    known_pair_score: float
    dmos_scale: DmosScale | None = None


def packaged_checkpoints() -> dict[str, Path]:
    """Return the checkpoints that the package ships, by name."""
    folder = Path(str(resources.files("spips_core"))) / "checkpoints"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file."""
    metadata = {
        "spips_version": FORMAT_VERSION,
        "config": json.dumps(dataclasses.asdict(checkpoint.config)),
        "trunk_digest": checkpoint.trunk_digest,
        "training": json.dumps(checkpoint.training),
        "known_pair_score": repr(checkpoint.known_pair_score),
    }
    if checkpoint.dmos_scale is not None:
        metadata["expected_dmos"] = checkpoint.dmos_scale.to_json()
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    # Not save_file, whose files only their owner may read, which hides them on a shared disk.
    Path(path).write_bytes(safetensors.torch.save(tensors, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file as data; nothing in it is executed.

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
        raise CheckpointError(
            f"checkpoint {path}: expected checkpoint format {FORMAT_VERSION}, got {got}; "
            "train it again"
        )
    try:
        fields, training = json.loads(metadata["config"]), json.loads(metadata["training"])
        if not isinstance(training, dict):
            raise TypeError(f"expected training as text by key, got {type(training).__name__}")
        scale = metadata.get("expected_dmos")
        return Checkpoint(
            config=ModelConfig(**{**fields, "streams": tuple(fields["streams"])}),
            tensors=tensors,
            trunk_digest=metadata["trunk_digest"],
            training=training,
            known_pair_score=float(metadata["known_pair_score"]),
            dmos_scale=None if scale is None else DmosScale.from_json(scale),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: metadata cannot be read: {error}") from error


def restore(
    model: "SPIPS",
    stored: Checkpoint,
    path: Path,
    backbone_weights: str | Path | None,
    precision: torch.dtype,
) -> None:
    """Fill a model with a checkpoint's weights, strictly, and check that it scores as recorded.

    Args:
        model: of the checkpoint's config; filled in place.
        stored: the checkpoint.
        path: its file, for messages.
        backbone_weights: path to the trunk's weights, for a checkpoint without them; None takes
            torchvision's.
        precision: the trunk's type.

    Raises:
        CheckpointError: the precision is unknown; or weights are missing, extra, of another shape,
            negative in a stream, or for another trunk; or the known pair scores differently.
    """
    if precision not in KNOWN_PAIR_TOLERANCE:
        known = ", ".join(map(str, KNOWN_PAIR_TOLERANCE))
        raise CheckpointError(f"precision: expected one of {known}, got {precision}")
    load_strictly(model, _full_state(model, stored, path, backbone_weights), f"checkpoint {path}")
    lowest = min(weight.min().item() for weight in model.streams.parameters())
    if lowest < 0:
        raise CheckpointError(
            f"checkpoint {path}: expected stream weights of at least 0, got {lowest:g}"
        )
    if model.trunk.digest() != stored.trunk_digest:
        raise CheckpointError(
            f"checkpoint {path}: expected the trunk with digest {stored.trunk_digest}, "
            f"got {model.trunk.digest()}"
        )
    model.training_record, model.dmos_scale = stored.training, stored.dmos_scale
    scale = None if stored.dmos_scale is None else stored.dmos_scale.to_json()
    description = {
        "format": FORMAT_VERSION, **dataclasses.asdict(stored.config), "expected_dmos": scale
    }  # fmt: skip
    model.digest = digest_of(model.state_dict(), json.dumps(description))
    model.trunk.set_precision(precision)
    expected, score = stored.known_pair_score, model.score(*known_pair()).score.item()
    if not math.isclose(score, expected, rel_tol=KNOWN_PAIR_TOLERANCE[precision]):
        raise CheckpointError(
            f"checkpoint {path}: expected its known pair to score {expected:g}, got {score:g}"
        )


def _full_state(
    model: "SPIPS", stored: Checkpoint, path: Path, backbone_weights: str | Path | None
) -> dict[str, Tensor]:
    """Return all of the model's weights by name, the trunk's from the checkpoint or elsewhere."""
    state = dict(stored.tensors)
    if any(name.startswith("trunk.") for name in state):
        if backbone_weights is not None:
            raise CheckpointError(
                f"checkpoint {path}: expected no backbone weights, it has its own"
            )
    else:
        if backbone_weights is None and model.trunk.backbone.torchvision_weights is None:
            raise CheckpointError(
                f"checkpoint {path}: expected its trunk's weights in it, or a path to them; "
                f"torchvision has none for {stored.config.backbone}"
            )
        load_trunk_weights(model.trunk, backbone_weights)
        state |= {f"trunk.{name}": value for name, value in model.trunk.state_dict().items()}
    return state


def known_pair() -> tuple[Tensor, Tensor]:
    """Return a pair made with integer arithmetic, so that it is the same on every machine.

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
