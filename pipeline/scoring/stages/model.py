"""Load the model that a config names, and set it up for a scorer."""

import logging
from dataclasses import asdict

import torch

from pipeline.runs.errors import ContractError, FaultError, did_you_mean
from pipeline.runs.records import ModelInfo
from pipeline.runs.storage import local_copy
from pipeline.runs.uris import redact
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.resources import SCORER_KEPT_BYTES, keep_freed_memory
from spips_core import SPIPS, CompilationError, packaged_checkpoints

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def describe_model(model: SPIPS) -> ModelInfo:
    """Return what a run records about its model."""
    return ModelInfo(
        digest=model.digest,
        trained=bool(model.training_record),
        training=model.training_record,
        config=asdict(model.config),
        fusion_weights=model.fusion_weights,
        dmos_scale=asdict(model.dmos_scale) if model.dmos_scale else None,
    )


def load_model(source: ModelSourceConfig) -> SPIPS:
    """Load the model that a config names; files elsewhere are fetched and checked first.

    Raises:
        ContractError: there is no such file, or it has another sha256.
        FaultError: a file's store is away.
        CheckpointError: a file is not what the model expects.
    """
    packaged = packaged_checkpoints()
    weights = source.backbone_weights
    try:
        checkpoint = local_copy(
            str(packaged.get(source.checkpoint, source.checkpoint)), source.checkpoint_sha256
        )
    except ContractError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ContractError(
            f"checkpoint: expected one of {', '.join(packaged)}, or a file, got "
            f"{redact(source.checkpoint)}{did_you_mean(source.checkpoint, packaged)}"
        ) from error
    return SPIPS.load(
        checkpoint,
        backbone_weights=local_copy(weights, source.backbone_weights_sha256) if weights else None,
        precision=PRECISIONS[source.precision],
        lpips=source.lpips,
    )


def prepare_model(
    source: ModelSourceConfig, expected_digest: str, use_gpu: bool, compile_kernels: bool
) -> SPIPS:
    """Load the planned model, and set up this process and the device for it."""
    model = load_model(source)
    if model.digest != expected_digest:
        raise FaultError(
            f"model.checkpoint: expected digest {expected_digest} as on the driver, "
            f"got {model.digest}"
        )
    if use_gpu:
        if not torch.cuda.is_available():
            raise FaultError(
                "compute.gpus_per_scorer: expected a CUDA GPU, got none in this process"
            )
        # Scores are specified for float32; by default cuDNN uses TF32, with a mantissa of 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        model = model.cuda()
    else:
        # One thread: processes scale better, and the number of threads changes rounding.
        torch.set_num_threads(1)
    keep_freed_memory(SCORER_KEPT_BYTES)
    if compile_kernels:
        try:
            with torch.inference_mode():  # as the scorer, see `_score_batch`
                model.compile_kernels()
        except CompilationError as error:
            logging.getLogger(__name__).warning("scoring with eager kernels: %s", error)
    # Match the layout of the trunk's inputs, so that no call has to reorder the weights.
    model.trunk.to(memory_format=torch.channels_last)
    return model
