"""Train on Ray Train: in one process or several, resumable after every epoch."""

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from pipeline.learning.config import TrainConfig
from pipeline.learning.fold_models import (
    HISTORY,
    FoldModel,
    finish_models,
    report_epoch,
    resume,
    validate,
)
from pipeline.learning.judged_sets import open_sets
from pipeline.learning.training_sets import families_of, make_training_sets
from pipeline.runs.errors import ContractError, FaultError, raise_problems
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    check_writable,
    describe,
    open_store,
)
from spips_core.config import ModelConfig
from spips_core.errors import DatasetError, FetchError, SpipsError
from spips_core.learning.datasets import digest_of_examples
from spips_core.model import SPIPS

MAX_FAILURES = 2
"""How often Ray Train replaces lost workers and resumes after the last epoch."""


def check_training(config: TrainConfig) -> None:
    """Check the data, the trunk's weights and the output folder before anything starts.

    Raises:
        ContractError: lists every problem.
        FaultError: nothing is wrong, but torchvision cannot fetch the trunk's weights.
    """
    problems: list[str] = []
    faults: list[str] = []
    num_folds = config.training.num_folds
    families: set[str] = set()
    try:
        for item in open_sets(config.data):
            families |= set(families_of(item)) - {""}
            num_references = len(set(item.examples.references))
            if num_references < num_folds:
                problems.append(
                    f"training.num_folds: expected at most the {num_references} references of "
                    f"{item.name}, got {num_folds}"
                )
        if config.training.by_family and len(families) < 2:
            problems.append(
                "training.by_family: expected severity series or a jury with at least two families "
                f"of distortions, got {len(families)}"
            )
    except ContractError as error:
        problems += error.problems
    try:
        make_model(config)
    except FetchError as error:
        faults.append(f"model: {error}")
    except SpipsError as error:
        problems.append(f"model: {error}")
    try:
        check_writable(config.output.uri)
    except STORE_ERRORS as error:
        problems.append(f"output.uri: {describe(error)}")
    raise_problems(problems, faults)


def run_training(config: TrainConfig) -> list[str]:
    """Train, or resume an unfinished training of the same command, and publish the checkpoints.

    Returns:
        URIs of the checkpoints: the model trained on everything, then one for each fold and family.

    Raises:
        ContractError: the data cannot be read.
        FaultError: workers failed too often, or left no checkpoint.
    """
    try:
        result = _make_trainer(config).fit()
    except ray.train.TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, DatasetError):
            raise ContractError(f"data: {cause}") from error
        raise FaultError(f"training stopped: {_cause(error)}") from error
    except SystemExit as stop:  # Ray Train's answer to Ctrl-C, once its workers have stopped
        raise KeyboardInterrupt from stop
    if result.checkpoint is None:
        raise FaultError("training: expected a checkpoint, got none")
    return _publish(config, result.checkpoint)


def _make_trainer(config: TrainConfig) -> TorchTrainer:
    settings = _with_absolute_paths(config.model_dump(mode="json"))
    data = [digest_of_examples(item.examples) for item in open_sets(config.data)]
    identity = json.dumps([settings, data], sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:12]
    fs, folder = open_store(config.output.uri)
    workers = config.workers
    return TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=RunConfig(
            # Other settings or changed data make a new training; they never resume an old one.
            name=f"{config.output.name}-{fingerprint}",
            storage_path=f"{folder}/training",
            storage_filesystem=arrow_filesystem(fs),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[StopAtDamagedData()],  # type: ignore[list-item]
        ),
    )


class StopAtDamagedData(UserCallback):
    """Ends a training whose data cannot be read, which other workers could not read either."""

    def after_exception(
        self,
        run_context: Any,  # noqa: ARG002 - Ray names it
        worker_exceptions: dict[int, Exception],
    ) -> None:
        """Raise a worker's DatasetError, if there is one; Ray Train does not retry that."""
        for failure in worker_exceptions.values():
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, DatasetError):
                raise cause


def _with_absolute_paths(settings: Any) -> Any:
    """Return the settings with absolute paths, because workers run in folders of their own."""
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


def _cause(error: Exception) -> str:
    """Return the workers' errors as one line."""
    failures = getattr(error, "worker_failures", {0: error}).values()
    causes = {getattr(failure, "_base_exc", failure) for failure in failures}
    lines = [f"{type(cause).__name__}: {' '.join(str(cause).split())}" for cause in causes]
    return "; ".join(sorted(lines))


def _publish(config: TrainConfig, checkpoint: Checkpoint) -> list[str]:
    """Copy the finished models and the history to the output folder; return the models' URIs."""
    fs, folder = open_store(config.output.uri)
    published = []
    with checkpoint.as_directory() as local:
        for path in sorted(Path(local).glob("*.safetensors"), key=lambda p: (len(p.name), p.name)):
            fs.put_file(str(path), f"{folder}/{path.name}")
            published.append(f"{config.output.uri.rstrip('/')}/{path.name}")
        fs.put_file(f"{local}/{HISTORY}", f"{folder}/{config.output.name}.json")
    return published


def train_loop(settings: dict[str, Any]) -> None:
    """Train in one worker, by a `TrainConfig` as plain data; Ray Train calls this in each."""
    config = TrainConfig.model_validate(settings)
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # one line per checkpoint otherwise
    loop = config.training
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.manual_seed(loop.seed)
    model = make_model(config)
    sets = make_training_sets(config, model, rank=rank, world_size=world_size)
    families = {name for item in sets for name in families_of(item.judged)} - {""}
    held_out = [None, *range(loop.num_folds), *(sorted(families) if loop.by_family else ())]
    fold_models = [FoldModel(loop, model, sets, one) for one in held_out]
    history = resume(fold_models)
    if history:
        sys.stdout.write(f"resumed after epoch {len(history)}\n")
    largest = max(len(item.judged.examples) for item in sets)
    num_steps = -(-largest // (loop.batch_size * world_size))
    for epoch in range(len(history), loop.epochs):
        losses = [fold_model.train_epoch(epoch, num_steps) for fold_model in fold_models]
        figures = {"loss": losses[0], **validate(fold_models, sets, world_size)}
        history.append({"epoch": epoch + 1, **figures})
        if rank == 0:
            line = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            sys.stdout.write(f"epoch {epoch + 1} of {loop.epochs}: {line}\n")
        report_epoch(rank, fold_models, history)
    report_epoch(rank, fold_models, history, finish_models(config, fold_models, sets, history))


def make_model(config: TrainConfig) -> SPIPS:
    """Return the untrained model.

    Raises:
        CheckpointError: the trunk's weights cannot be read or do not fit.
    """
    architecture = ModelConfig(**config.model.model_dump(exclude={"backbone_weights"}))
    weights, seed = config.model.backbone_weights, config.training.seed
    if config.training.mode != "scratch":
        return SPIPS.untrained(architecture, backbone_weights=weights, seed=seed)
    torch.manual_seed(seed)
    model = SPIPS(architecture)
    model.trunk.initialise()
    return model
