"""Train on Ray Train: one process by default, more by setting; resumable after every epoch."""

import copy
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from pipeline.learning.config import TrainConfig
from pipeline.learning.judged_sets import JudgedSet, open_sets
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    check_writable,
    describe,
    open_store,
)
from spips_core.config import STREAMS, ModelConfig
from spips_core.errors import SpipsError
from spips_core.learning.datasets import digest_of_examples
from spips_core.learning.embedding import embed
from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE
from spips_core.learning.train import (
    EmbeddedSource,
    ImageSource,
    Source,
    Trainee,
    epoch_batches,
    finish,
    fold_of,
    make_optimizer,
    mean_quality,
    predict,
    rate_factor,
    reference_numbers,
    train_epoch,
)
from spips_core.model import SPIPS

BATCHES_FOR_SCALES = 16
BATCH_SIZE_UNTRAINED = 32  # where no gradients are kept
MAX_FAILURES = 2  # lost workers; Ray starts them again after the last epoch
logger = logging.getLogger("ray.train")
STATE, HISTORY = "state.pt", "history.json"


def check_training(config: TrainConfig) -> None:
    """Check the data, the trunk's weights and the output folder before anything is started.

    Args:
        config: the job's.

    Raises:
        ContractError: something is not what it should be; every problem is listed.
    """
    problems = []
    try:
        for item in open_sets(config.data):
            num_references = len(set(item.examples.references))
            if num_references < config.training.num_folds:
                problems.append(
                    f"training.num_folds: expected at most the {num_references} references of "
                    f"{item.name}, got {config.training.num_folds}"
                )
    except ContractError as error:
        problems += error.problems
    try:
        make_model(config)
    except SpipsError as error:
        problems.append(f"model: {error}")
    try:
        check_writable(config.output.uri)
    except STORE_ERRORS as error:
        problems.append(f"output.uri: {describe(error)}")
    if problems:
        raise ContractError(*problems)


def run_training(config: TrainConfig) -> list[str]:
    """Train, or go on where the same command stopped, and publish the checkpoints.

    Args:
        config: the job's.

    Returns:
        URIs of the checkpoints: the model trained on everything, then one for each fold.

    Raises:
        FaultError: a worker failed too often, or the output cannot be written.
    """
    settings = _with_absolute_paths(config.model_dump(mode="json"))
    data = [digest_of_examples(item.examples) for item in open_sets(config.data)]
    identity = json.dumps([settings, data], sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:12]
    fs, folder = open_store(config.output.uri)
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=config.workers.num_workers, use_gpu=config.workers.use_gpu
        ),
        run_config=RunConfig(
            # Another setting, or changed data, is another training, never mixed in.
            name=f"{config.output.name}-{fingerprint}",
            storage_path=f"{folder}/training",
            storage_filesystem=arrow_filesystem(fs),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise FaultError(f"training stopped: {_cause(error)}") from error
    except SystemExit as stop:  # what Ray Train makes of Ctrl-C once its workers have stopped
        raise KeyboardInterrupt from stop
    if result.checkpoint is None:
        raise FaultError("training: expected a checkpoint, got none")
    published = []
    with result.checkpoint.as_directory() as local:
        for path in sorted(Path(local).glob("*.safetensors"), key=lambda p: (len(p.name), p.name)):
            fs.put_file(str(path), f"{folder}/{path.name}")
            published.append(f"{config.output.uri.rstrip('/')}/{path.name}")
        fs.put_file(f"{local}/{HISTORY}", f"{folder}/{config.output.name}.json")
    return published


def _cause(error: Exception) -> str:
    """Return what went wrong in the workers as one line."""
    failures = getattr(error, "worker_failures", {0: error}).values()
    causes = {getattr(failure, "_base_exc", failure) for failure in failures}
    lines = [f"{type(cause).__name__}: {' '.join(str(cause).split())}" for cause in causes]
    return "; ".join(sorted(lines))


def _with_absolute_paths(settings: Any) -> Any:
    """Return the settings as workers need them, who work in folders of their own."""
    if isinstance(settings, list):
        return [_with_absolute_paths(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: str(Path(value).absolute())
        if key in ("path", "cache", "backbone_weights") and value is not None
        else _with_absolute_paths(value)
        for key, value in settings.items()
    }


def train_loop(settings: dict[str, Any]) -> None:
    """Train in one of the workers: the loop that Ray Train runs.

    Args:
        settings: a `TrainConfig` as plain data.
    """
    config = TrainConfig.model_validate(settings)
    logger.setLevel(logging.WARNING)  # it would tell of every epoch's checkpoint
    loop = config.training
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.manual_seed(loop.seed)
    sets = open_sets(config.data)
    # Each worker holds its share of every set.
    shards = [np.arange(rank, len(item.examples), world_size) for item in sets]
    model = make_model(config)
    sources = _make_sources(config, sets, shards, model)
    folds = [
        fold_of(item.examples.references, max(1, loop.num_folds), _references(sets, item.kind))[
            shard
        ]
        for item, shard in zip(sets, shards, strict=True)
    ]
    # The first model learns from everything; each other one has a fold held out.
    held_out = [None, *range(loop.num_folds)]
    fold_models = [
        FoldModel(config, model, sources, folds, held_out_fold=fold) for fold in held_out
    ]
    history = _restore(fold_models)
    num_steps = -(-max(len(item.examples) for item in sets) // (loop.batch_size * world_size))
    for epoch in range(len(history), loop.epochs):
        losses = [
            fold_model.train_epoch(sources, config, epoch=epoch, num_steps=num_steps, number=number)
            for number, fold_model in enumerate(fold_models)
        ]
        figures = {
            "loss": losses[0],
            **_validate(fold_models[1:], sources, sets, shards, world_size),
        }
        history.append({"epoch": epoch + 1, **figures})
        if rank == 0:
            line = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            sys.stdout.write(f"epoch {epoch + 1} of {loop.epochs}: {line}\n")
        _report(rank, fold_models, history)
    _report(rank, fold_models, history, models=_finish(config, sets, fold_models, sources, history))


def _references(sets: Sequence[JudgedSet], kind: str) -> list[str]:
    return [name for item in sets if item.kind == kind for name in item.examples.references]


def make_model(config: TrainConfig) -> SPIPS:
    """Return the model to train, untrained.

    Args:
        config: the job's.

    Raises:
        CheckpointError: the trunk's weights cannot be had or do not fit.
    """
    chosen = config.model
    architecture = ModelConfig(
        backbone=chosen.backbone, streams=chosen.streams, fusion=chosen.fusion,
        feature_norm=chosen.feature_norm,
    )  # fmt: skip
    if config.training.mode == "scratch":
        torch.manual_seed(config.training.seed)
        model = SPIPS(architecture)
        model.trunk.initialise()
        return model
    return SPIPS.untrained(
        architecture, backbone_weights=chosen.backbone_weights, seed=config.training.seed
    )


def _make_sources(
    config: TrainConfig,
    sets: Sequence[JudgedSet],
    shards: Sequence[NDArray[np.intp]],
    model: SPIPS,
) -> list[Source]:
    """Return where batches come from: with a frozen trunk, what it made of each set once."""
    if config.training.mode != "lin":
        return [
            ImageSource(
                item.kind, item.weight, item.examples, shard.tolist(),
                config.training.crop_px, config.workers.num_loaders,
            )
            for item, shard in zip(sets, shards, strict=True)
        ]  # fmt: skip
    device = ray.train.torch.get_device()
    # All streams, whichever are trained: ablations share what is kept.
    embedder = SPIPS(replace(model.config, streams=STREAMS)).eval()
    embedder.trunk.load_state_dict(model.trunk.state_dict())
    embedder.to(device)
    sources: list[Source] = []
    for item, shard in zip(sets, shards, strict=True):
        quality = embed(
            embedder, item.examples, shard.tolist(),
            cache=Path(config.data.cache) if config.data.cache else None,
            report=_progress(item.name),
        )  # fmt: skip
        targets = torch.tensor(item.examples.targets[shard], dtype=torch.float32, device=device)
        on_device = {name: [q.to(device) for q in qs] for name, qs in quality.items()}
        numbers = reference_numbers(item.examples.references)[shard].to(device)
        sources.append(EmbeddedSource(item.kind, item.weight, targets, numbers, on_device))
    return sources


def _progress(name: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            sys.stdout.write(f"{name}: {done} of {total} embedded\n")

    return report


class FoldModel:
    """One model in training, with its optimizer and the examples that it may see."""

    def __init__(
        self,
        config: TrainConfig,
        model: SPIPS,
        sources: Sequence[Source],
        folds: Sequence[NDArray[np.intp]],
        *,
        held_out_fold: int | None,
    ) -> None:
        self.held_out_fold = held_out_fold
        self.seen = [
            np.flatnonzero(fold != (-1 if held_out_fold is None else held_out_fold))
            for fold in folds
        ]
        self.unseen = [np.flatnonzero(fold == held_out_fold) for fold in folds]
        own = copy.deepcopy(model).to(ray.train.torch.get_device())
        scales = mean_quality(
            own,
            epoch_batches(
                sources, self.seen, batch_size=config.training.batch_size,
                num_steps=BATCHES_FOR_SCALES, seed=config.training.seed,
            ),
        )  # fmt: skip
        self.trainee = Trainee(
            own,
            scales,
            dropout=config.training.dropout,
            weight_decay_to_init=config.training.weight_decay_to_init,
        )
        self.wrapped = ray.train.torch.prepare_model(
            self.trainee, parallel_strategy_kwargs={"find_unused_parameters": True}
        )
        self.optimizer = make_optimizer(
            self.trainee,
            learning_rate=config.training.learning_rate,
            trunk_learning_rate=None
            if config.training.mode == "lin"
            else config.training.trunk_learning_rate,
        )

    def train_epoch(
        self,
        sources: Sequence[Source],
        config: TrainConfig,
        *,
        epoch: int,
        num_steps: int,
        number: int,
    ) -> float:
        """Train for one epoch and return the mean loss."""
        loop = config.training
        seed = loop.seed + 1_000_003 * epoch + 7919 * number  # a resumed training draws the same
        torch.manual_seed(seed)
        steps = epoch_batches(
            sources, self.seen, batch_size=loop.batch_size, num_steps=num_steps, seed=seed
        )
        factor = rate_factor(epoch, loop.epochs)
        return train_epoch(self.wrapped, self.optimizer, steps, factor=factor)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"trainee": self.trainee.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.trainee.load_state_dict(state["trainee"])
        self.optimizer.load_state_dict(state["optimizer"])


def _restore(fold_models: Sequence[FoldModel]) -> list[dict[str, float]]:
    """Go back to the last epoch that was kept, and return the history up to it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        kept = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    for fold_model, state in zip(fold_models, kept["fold_models"], strict=True):
        fold_model.restore(state)
    sys.stdout.write(f"resumed after epoch {len(kept['history'])}\n")
    return list(kept["history"])


def _report(
    rank: int,
    fold_models: Sequence[FoldModel],
    history: list[dict[str, float]],
    models: dict[str, SPIPS] | None = None,
) -> None:
    """Keep an epoch's state, and with the last one the finished models, through Ray Train."""
    if rank != 0:
        ray.train.report(history[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {
            "fold_models": [fold_model.state() for fold_model in fold_models],
            "history": history,
        }
        torch.save(state, Path(folder) / STATE)
        for name, model in (models or {}).items():
            is_own = model.trunk.backbone.torchvision_weights is None
            is_changed = model.training_record["mode"] != "lin"
            model.cpu().save(Path(folder) / name, with_trunk=is_own or is_changed)
        (Path(folder) / HISTORY).write_text(json.dumps(history, indent=1))
        ray.train.report(history[-1], checkpoint=Checkpoint.from_directory(folder))


def _validate(
    fold_models: Sequence[FoldModel],
    sources: Sequence[Source],
    sets: Sequence[JudgedSet],
    shards: Sequence[NDArray[np.intp]],
    world_size: int,
) -> dict[str, float]:
    """Return each set's main figure on references not learned from, the mean over the folds."""
    figures: dict[str, float] = {}
    for number, item in enumerate(sets):
        values = []
        for fold_model in fold_models:
            unseen = fold_model.unseen[number]
            chosen = _in_batches(unseen)
            scores = (
                predict(fold_model.trainee, sources[number].batches(chosen)) if chosen else None
            )
            parts = [(scores, shards[number][unseen])]
            if world_size > 1:
                parts = [None] * world_size  # type: ignore[list-item]
                torch.distributed.all_gather_object(parts, (scores, shards[number][unseen]))
            gathered = torch.cat([part for part, _ in parts if part is not None]).double().numpy()
            indices = np.concatenate([members for _, members in parts])
            names = np.asarray(item.examples.references)[indices]
            references = np.unique(names, return_inverse=True)[1].astype(np.intp)
            main = MAIN_FIGURE[item.kind]
            values.append(
                FIGURES[item.kind][main](gathered, item.examples.targets[indices], references)
            )
        if values:
            figures[f"{item.name}_{MAIN_FIGURE[item.kind]}"] = float(np.nanmean(values))
    return figures


def _in_batches(positions: NDArray[np.intp]) -> list[list[int]]:
    return [
        positions[start : start + BATCH_SIZE_UNTRAINED].tolist()
        for start in range(0, len(positions), BATCH_SIZE_UNTRAINED)
    ]


def _finish(
    config: TrainConfig,
    sets: Sequence[JudgedSet],
    fold_models: Sequence[FoldModel],
    sources: Sequence[Source],
    history: Sequence[dict[str, float]],
) -> dict[str, SPIPS]:
    """Return the finished models by file name."""
    models = {}
    for fold_model in fold_models:
        batches = (
            batch
            for source, seen in zip(sources, fold_model.seen, strict=True)
            for batch in source.batches(_in_batches(seen))
        )
        model = finish(fold_model.trainee, batches)
        model.training_record = {
            "mode": config.training.mode,
            "data": ", ".join(f"{s.name} ({len(s.examples)} {s.kind})" for s in sets),
            "held_out_fold": "none" if fold_model.held_out_fold is None else
            f"{fold_model.held_out_fold} of {config.training.num_folds}",
            "held_out_references": json.dumps(_unseen(config, sets, fold_model)),
            "settings": json.dumps(_without_paths(config)),
            "last_epoch": json.dumps(history[-1]),
        }  # fmt: skip
        suffix = "" if fold_model.held_out_fold is None else f"-fold{fold_model.held_out_fold}"
        models[f"{config.output.name}{suffix}.safetensors"] = model
    return models


def _unseen(config: TrainConfig, sets: Sequence[JudgedSet], fold_model: FoldModel) -> list[str]:
    """Return the references of rated pairs that a fold_model has not learned from."""
    rated = sorted(set(_references(sets, "rated")))
    folds = fold_of(rated, max(1, config.training.num_folds))
    return [
        name for name, fold in zip(rated, folds, strict=True) if fold == fold_model.held_out_fold
    ]


def _without_paths(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the result; where things lay is no one's business."""
    settings = config.model_dump(mode="json", exclude={"output", "workers"})
    for kind in ("rated", "triplets", "severity_series"):
        for item in settings["data"][kind]:
            del item["path"]
    del settings["data"]["cache"], settings["model"]["backbone_weights"]
    return settings
