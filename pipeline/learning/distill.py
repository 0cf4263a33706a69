"""Distil this project's own trunk from a large one, resumable after every hundred steps."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from pipeline.learning.config import DistillTrunkConfig
from pipeline.runs.errors import raise_problems
from spips_core.errors import FetchError, SpipsError
from spips_core.learning.distill import Distillation, DistortedCrops
from spips_core.learning.distortions import DISTORTIONS
from spips_core.trunk import Trunk, load_trunk_weights

STEPS_PER_REPORT = 100
STUDENT = "alexnet_slim"

Report = Callable[[str], None]


def distill_trunk(config: DistillTrunkConfig, report: Report) -> Path:
    """Train the trunk, or resume an unfinished training of the same command.

    Returns:
        The file with the trunk's weights, under torchvision's names.

    Raises:
        ContractError: no photographs, an unknown distortion, or wrong weights.
        FaultError: torchvision cannot fetch its weights.
    """
    distillation = _prepare(config)
    path = Path(config.output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:12]
    unfinished = path.with_suffix(f".{fingerprint}.unfinished")
    if unfinished.exists():
        distillation.restore(torch.load(unfinished, weights_only=True))
        report(f"resumed after step {distillation.step}")
    _run(distillation, unfinished, report)
    distillation.student.fold_normalization()
    safetensors.torch.save_file(distillation.student.state_dict(), path)
    unfinished.unlink(missing_ok=True)
    return path


def _prepare(config: DistillTrunkConfig) -> Distillation:
    """Return the training before its first step, and raise once with every problem."""
    loop = config.training
    torch.manual_seed(loop.seed)
    student, teacher = Trunk(STUDENT), Trunk(config.teacher.backbone)
    student.initialise()
    unknown = [kind for kind in config.photos.held_out if kind not in DISTORTIONS]
    problems = [f"photos.held_out: unknown distortion {kind}" for kind in unknown]
    faults: list[str] = []
    try:
        load_trunk_weights(teacher, config.teacher.backbone_weights)
    except FetchError as error:
        faults.append(f"teacher: {error}")
    except SpipsError as error:
        problems.append(f"teacher: {error}")
    try:
        kinds = [kind for kind in DISTORTIONS if kind not in config.photos.held_out]
        pairs = DistortedCrops(
            config.photos.path, kinds, length=loop.num_steps * loop.batch_size,
            side_px=loop.side_px, seed=loop.seed,
        )  # fmt: skip
    except SpipsError as error:
        problems.append(str(error))
    raise_problems(problems, faults)
    return Distillation(
        student, teacher, pairs, batch_size=loop.batch_size, learning_rate=loop.learning_rate,
        num_loaders=loop.num_loaders,
    )  # fmt: skip


def _run(distillation: Distillation, unfinished: Path, report: Report) -> None:
    """Train to the end; now and then report and save the state."""
    started, first_step = time.monotonic(), distillation.step
    recent: list[list[float]] = []
    for losses in distillation.run():
        recent.append(losses)
        step, num_steps = distillation.step, distillation.num_steps
        if step % STEPS_PER_REPORT == 0:
            rate = (step - first_step) / (time.monotonic() - started)
            means = " ".join(f"{value:.3f}" for value in np.mean(recent, axis=0))
            left = f"{(num_steps - step) / rate / 60:.0f} min to go"
            report(f"step {step} of {num_steps}: loss at the taps {means}, {left}")
            recent = []
            # Renamed at the end, so that a kill leaves either the old state or the new one.
            fresh = unfinished.with_suffix(".fresh")
            torch.save(distillation.state(), fresh)
            fresh.replace(unfinished)
