"""The models that train side by side: one on all examples, and others that some are held out from.

Held out is a fold of the references, or in synthetic distortions a family of these.
"""

import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.train import Checkpoint

from pipeline.learning.config import LoopConfig, TrainConfig
from pipeline.learning.training_sets import TrainingSet, references_of
from spips_core.dmos_scale import DmosScale
from spips_core.learning.batches import Batch, epoch_batches, number_references
from spips_core.learning.datasets import fold_of
from spips_core.learning.dmos_fit import fit_dmos_scale, score_whole
from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE
from spips_core.learning.rated_pairs import RatedPairs
from spips_core.learning.train import make_optimizer, rate_factor, train_epoch
from spips_core.learning.trainee import Trainee, channel_scales, finish, predict
from spips_core.model import SPIPS

BATCHES_FOR_SCALES = 16
BATCH_SIZE_WITHOUT_GRADIENTS = 32
STATE, HISTORY = "state.pt", "history.json"

HeldOut = int | str | None
"""A fold of references, a family of distortions, or nothing."""


class FoldModel:
    """One model in training, its optimizer, and the examples that it may see.

    Attributes:
        held_out: number of the fold, or name of the family of distortions, that it does not learn
            from; None if it learns from all.
        seen: for each set, positions in the shard to learn from.
        unseen: for each set, the other positions.
        trainee: the model.
    """

    def __init__(
        self, loop: LoopConfig, model: SPIPS, sets: Sequence[TrainingSet], held_out: HeldOut
    ) -> None:
        self._loop, self._sources = loop, [item.source for item in sets]
        self.held_out = held_out
        self.seen, self.unseen = split(sets, held_out)
        own = copy.deepcopy(model).to(ray.train.torch.get_device())
        self.trainee = Trainee(
            own, channel_scales(own, self._steps(BATCHES_FOR_SCALES, loop.seed)),
            dropout=loop.dropout, weight_decay_to_init=loop.weight_decay_to_init,
        )  # fmt: skip
        self._wrapped = ray.train.torch.prepare_model(
            self.trainee, parallel_strategy_kwargs={"find_unused_parameters": True}
        )
        self._optimizer = make_optimizer(
            self.trainee,
            learning_rate=loop.learning_rate,
            trunk_learning_rate=None if loop.mode == "lin" else loop.trunk_learning_rate,
        )

    def _steps(self, num_steps: int, seed: int) -> Iterator[list[Batch]]:
        size = self._loop.batch_size
        return epoch_batches(
            self._sources, self.seen, batch_size=size, num_steps=num_steps, seed=seed
        )

    def train_epoch(self, epoch: int, num_steps: int) -> float:
        """Train for one epoch and return the mean loss."""
        number = self.held_out + 1 if isinstance(self.held_out, int) else 0
        seed = self._loop.seed + 1_000_003 * epoch + 7919 * number  # the same in a resumed training
        torch.manual_seed(seed)
        steps, factor = self._steps(num_steps, seed), rate_factor(epoch, self._loop.epochs)
        return train_epoch(self._wrapped, self._optimizer, steps, factor=factor)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"trainee": self.trainee.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.trainee.load_state_dict(state["trainee"])
        self._optimizer.load_state_dict(state["optimizer"])


def split(
    sets: Sequence[TrainingSet], held_out: HeldOut
) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]]:
    """Return for each set the positions that a model may learn from, and the other ones."""
    by_family = isinstance(held_out, str)
    labels = [item.families if by_family else item.folds for item in sets]
    is_unseen = [label == held_out for label in labels]  # no label equals None
    return [np.flatnonzero(~mask) for mask in is_unseen], [np.flatnonzero(m) for m in is_unseen]


def validate(
    fold_models: Sequence[FoldModel], sets: Sequence[TrainingSet], world_size: int
) -> dict[str, float]:
    """Return each set's main figure on held-out references, the mean over the folds.

    Workers exchange their scores. Without folds there are no figures.
    """
    figures: dict[str, float] = {}
    folds = [model for model in fold_models if isinstance(model.held_out, int)]
    for number, item in enumerate(sets if folds else ()):
        values = [_held_out_figure(model, number, item, world_size) for model in folds]
        name = f"{item.judged.name}_{MAIN_FIGURE[item.judged.kind]}"
        figures[name] = float(np.nanmean(values))
    return figures


def _held_out_figure(
    fold_model: FoldModel, number: int, item: TrainingSet, world_size: int
) -> float:
    positions = fold_model.unseen[number]
    chosen = _in_batches(positions)
    scores = predict(fold_model.trainee, item.source.batches(chosen)) if chosen else None
    parts: list[Any] = [(scores, item.shard[positions])]
    if world_size > 1:
        own, parts = parts[0], [None] * world_size
        torch.distributed.all_gather_object(parts, own)
    gathered = torch.cat([part for part, _ in parts if part is not None]).double().numpy()
    indices = np.concatenate([indices for _, indices in parts])
    examples, kind = item.judged.examples, item.judged.kind
    references = number_references([examples.references[index] for index in indices]).numpy()
    return FIGURES[kind][MAIN_FIGURE[kind]](gathered, examples.targets[indices], references)


def _in_batches(positions: NDArray[np.intp]) -> list[list[int]]:
    return [
        positions[start : start + BATCH_SIZE_WITHOUT_GRADIENTS].tolist()
        for start in range(0, len(positions), BATCH_SIZE_WITHOUT_GRADIENTS)
    ]


def finish_models(
    config: TrainConfig,
    fold_models: Sequence[FoldModel],
    sets: Sequence[TrainingSet],
    history: Sequence[dict[str, float]],
) -> dict[str, SPIPS]:
    """Return the finished models with their training records, by file name."""
    judged, num_folds = [item.judged for item in sets], config.training.num_folds
    rated = sorted(set(references_of(judged, "rated")))
    folds_of_rated = fold_of(rated, max(1, num_folds))
    finished = {}
    for fold_model in fold_models:
        batches = (
            batch
            for item, seen in zip(sets, fold_model.seen, strict=True)
            for batch in item.source.batches(_in_batches(seen))
        )
        model, held_out = finish(fold_model.trainee, batches), fold_model.held_out
        fold = held_out if isinstance(held_out, int) else None
        references = [name for name, f in zip(rated, folds_of_rated, strict=True) if f == fold]
        model.training_record = {
            "mode": config.training.mode,
            "data": ", ".join(f"{s.name} ({len(s.examples)} {s.kind})" for s in judged),
            "held_out_fold": "none" if fold is None else f"{fold} of {num_folds}",
            "held_out_references": json.dumps(references),
            "held_out_family": held_out if isinstance(held_out, str) else "none",
            "settings": json.dumps(_without_paths(config)),
            "last_epoch": json.dumps(history[-1]),
        }
        suffix = _suffix(held_out)
        finished[f"{config.output.name}{suffix}.safetensors"] = model
    scale = _fit_scale(fold_models, list(finished.values()), sets)
    for model in finished.values():
        model.dmos_scale = scale
    return finished


def _suffix(held_out: HeldOut) -> str:
    if held_out is None:
        return ""
    return f"-fold{held_out}" if isinstance(held_out, int) else f"-without-{held_out}"


def _fit_scale(
    fold_models: Sequence[FoldModel], finished: Sequence[SPIPS], sets: Sequence[TrainingSet]
) -> DmosScale | None:
    """Fit the expected DMOS to whole rated pairs, each scored by the model that held it out.

    Only finished models have scores on one scale. Like `finish`, a worker uses its own examples.
    None without such pairs.
    """
    scores, dmos = [], []
    for fold_model, model in zip(fold_models, finished, strict=True):
        for item, positions in zip(sets, fold_model.unseen, strict=True):
            examples = item.judged.examples
            if isinstance(examples, RatedPairs) and examples.is_whole and len(positions):
                scores.append(score_whole(model, item.source, _in_batches(positions)).cpu())
                dmos.append(examples.dmos[item.shard[positions]])
    return fit_dmos_scale(torch.cat(scores), np.concatenate(dmos)) if scores else None


def _without_paths(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the result, without paths, which may be private."""
    settings = config.model_dump(mode="json", exclude={"output", "workers"})
    for kind in ("rated", "triplets", "severity_series", "jury"):
        for item in settings["data"][kind]:
            del item["path"]
    del settings["data"]["cache"], settings["model"]["backbone_weights"]
    return settings


def report_epoch(
    rank: int,
    fold_models: Sequence[FoldModel],
    history: list[dict[str, float]],
    finished: dict[str, SPIPS] | None = None,
) -> None:
    """Report an epoch to Ray Train; worker 0 adds the state to resume from and finished models."""
    if rank != 0:
        ray.train.report(history[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        states = [fold_model.state() for fold_model in fold_models]
        torch.save({"fold_models": states, "history": history}, Path(folder) / STATE)
        for name, model in (finished or {}).items():
            is_own = model.trunk.backbone.torchvision_weights is None
            is_changed = model.training_record["mode"] != "lin"
            model.cpu().save(Path(folder) / name, with_trunk=is_own or is_changed)
        (Path(folder) / HISTORY).write_text(json.dumps(history, indent=1))
        ray.train.report(history[-1], checkpoint=Checkpoint.from_directory(folder))


def resume(fold_models: Sequence[FoldModel]) -> list[dict[str, float]]:
    """Restore the models after the last reported epoch, and return the history up to it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        kept = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    for fold_model, state in zip(fold_models, kept["fold_models"], strict=True):
        fold_model.restore(state)
    return list(kept["history"])
