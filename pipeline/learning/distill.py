"""Run the training of this project's own trunk, keeping its state now and then."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from pipeline.learning.config import DistillTrunkConfig
from pipeline.runs.errors import ContractError
from spips_core.errors import SpipsError
from spips_core.learning.distill import Distillation, DistortedCrops
from spips_core.learning.distortions import DISTORTIONS
from spips_core.trunk import Trunk, load_trunk_weights

STEPS_PER_REPORT = 100
STUDENT = "alexnet_narrow"


def distill_trunk(config: DistillTrunkConfig, report: Callable[[str], None]) -> Path:
    """Train the trunk, or go on where the same command stopped.

    Args:
        config: the job's.
        report: called with a line of progress.

    Returns:
        The file with the trunk's weights, under torchvision's names.

    Raises:
        ContractError: no photographs, an unknown distortion, or wrong weights.
    """
    loop = config.training
    torch.manual_seed(loop.seed)
    student, teacher = Trunk(STUDENT), Trunk(config.teacher.backbone)
    student.initialise()
    unknown = [kind for kind in config.photos.held_out if kind not in DISTORTIONS]
    problems = [f"photos.held_out: unknown distortion {kind}" for kind in unknown]
    weights = config.teacher.backbone_weights
    try:
        load_trunk_weights(teacher, weights)
        pairs = DistortedCrops(
            config.photos.path,
            [kind for kind in DISTORTIONS if kind not in config.photos.held_out],
            length=loop.num_steps * loop.batch_size,
            side_px=loop.side_px,
            seed=loop.seed,
        )
    except SpipsError as error:
        problems.append(str(error))
    if problems:
        raise ContractError(*problems)
    distillation = Distillation(
        student, teacher, pairs, batch_size=loop.batch_size, learning_rate=loop.learning_rate,
        num_loaders=loop.num_loaders,
    )  # fmt: skip
    settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:12]
    path = Path(config.output.path)
    unfinished = path.with_suffix(f".{fingerprint}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    if unfinished.exists():
        distillation.restore(torch.load(unfinished, weights_only=True))
        report(f"resumed after step {distillation.step}")
    started, first = time.monotonic(), distillation.step
    recent: list[list[float]] = []
    for losses in distillation.run():
        recent.append(losses)
        if distillation.step % STEPS_PER_REPORT == 0:
            rate = (distillation.step - first) / (time.monotonic() - started)
            means = " ".join(f"{value:.3f}" for value in np.mean(recent, axis=0))
            report(
                f"step {distillation.step} of {distillation.num_steps}: loss at the taps {means}, "
                f"{(distillation.num_steps - distillation.step) / rate / 60:.0f} min to go"
            )
            recent = []
            _replace(unfinished, distillation)
    safetensors.torch.save_file(student.state_dict(), path)
    unfinished.unlink(missing_ok=True)
    return path


def _replace(path: Path, distillation: Distillation) -> None:
    """Write the state in one step, so that a kill leaves the old one or the new one."""
    fresh = path.with_suffix(".fresh")
    torch.save(distillation.state(), fresh)
    fresh.replace(path)
