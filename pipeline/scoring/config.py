"""The pipeline's settings: one class a section of the YAML, every field with its unit and bound."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.runs.settings import Section, Sha256, Uri

MIN_SIDE_PX = 96
"""The model's own lower bound, repeated so that reading a config does not import torch."""


class ManifestConfig(Section):
    """The list of pairs."""

    uri: Uri = Field(
        description="Parquet file, folder or glob; a local path or any fsspec URI.",
    )
    pair_id_column: str = Field(
        "pair_id", min_length=1, description="Column with each pair's unique id (string)."
    )
    reference_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the undistorted images: URIs (string) or encoded bytes (binary). "
        "null: reference_uri if the manifest has it, else reference_bytes.",
    )
    distorted_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the images to judge: URIs (string) or encoded bytes (binary). "
        "null: distorted_uri if the manifest has it, else distorted_bytes.",
    )


class ImagesConfig(Section):
    """Which images are accepted, and at what size they are scored."""

    max_bytes: int = Field(
        67_108_864, gt=0, description="Largest encoded image in bytes; above it: too_large."
    )
    max_pixels: int = Field(
        16_777_216,
        gt=0,
        description="Largest image in pixels (H x W), told from its header before it is decoded, "
        "and again after resizing; above it: too_large.",
    )
    min_side_px: int = Field(
        MIN_SIDE_PX,
        ge=MIN_SIDE_PX,
        description="Shortest side in pixels, as scored; below it: too_small.",
    )
    size_mismatch: Literal["error", "resize"] = Field(
        "error",
        description="A pair of two sizes is an error (size_mismatch), or the distorted image is "
        "resized to the reference's size (bicubic, antialiased).",
    )
    resize: int | None = Field(
        None,
        ge=MIN_SIDE_PX,
        description="Resize both images so that the shorter side has this many pixels (bicubic, "
        "antialiased); null: score them as they are.",
    )
    allowed_uri_prefixes: tuple[Uri, ...] | None = Field(
        None,
        description="Image URIs must begin with one of these, else forbidden; null: any URI.",
    )


class ModelSourceConfig(Section):
    """The model that scores."""

    checkpoint: Uri = Field(
        "embedded",
        description="Name of a checkpoint in the package, a path, or an fsspec URI.",
    )
    checkpoint_sha256: Sha256 | None = Field(
        None, description="The checkpoint file's sha256, checked; required for a remote URI."
    )
    backbone_weights: Uri | None = Field(
        None,
        description="Path or fsspec URI of the trunk's weights (.safetensors or .pth) for a "
        "checkpoint without them; null: torchvision's ImageNet weights.",
    )
    backbone_weights_sha256: Sha256 | None = Field(
        None, description="The weights file's sha256, checked; required for a remote URI."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type that the trunk computes in; all else stays float32."
    )

    @model_validator(mode="after")
    def _remote_files_have_digests(self) -> Self:
        for name in ("checkpoint", "backbone_weights"):
            uri, sha256 = getattr(self, name), getattr(self, f"{name}_sha256")
            is_remote = "://" in (uri or "").removeprefix("file://") or "::" in (uri or "")
            if is_remote and sha256 is None:
                raise ValueError(f"expected {name}_sha256 with a {name} fetched from elsewhere")
        return self


class ComputeConfig(Section):
    """What the run may use."""

    scorers: int | None = Field(
        None,
        gt=0,
        description="Scoring processes; null: one per GPU, or one per CPU when the cluster has no "
        "GPU, counted when the run starts (give it on a cluster that scales), and no more than one "
        "for every 500 pairs, on two threads each where CPUs would be left over.",
    )
    gpus_per_scorer: float | None = Field(
        None,
        ge=0,
        description="GPUs of one scoring process, a fraction shares one; null: 1 when the cluster "
        "has GPUs, else 0, which scores on CPUs.",
    )
    pixels_per_batch: int = Field(
        4_194_304,
        gt=0,
        description="Pixels (pairs x H x W) held in a block between stages, and scored together on "
        "a GPU; on a CPU at most 262,144 are; the same to the last bit in any company.",
    )
    compile: bool | None = Field(
        None,
        description="Compile the passes over pixels when a scoring process starts, which takes up "
        "to a minute; null: on CPUs, when each process has 6,000 pairs or more. Scores move by "
        "less than 1e-5. Without a C++ compiler (on a GPU: Triton) a warning says so.",
    )


class FailureConfig(Section):
    """When failed rows are an alarm."""

    max_failed_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of rows that may fail, 0 to 1; above it the results are published and "
        "the exit code is 3.",
    )


class OutputConfig(Section):
    """Where the results go."""

    uri: Uri = Field(
        description="Folder for runs, a local path or any fsspec URI; each run gets run_id=<id>/.",
    )
    run_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=128,
        description="Name of the run; null: derived from manifest, model and scoring settings.",
    )
    rows_per_file: int = Field(
        10_000,
        gt=0,
        description="Most rows of a results file, and the most a killed writer loses (or 64 rows, "
        "a task's, if that is more).",
    )


class ScoreManifestConfig(Section):
    """Everything that jobs/score_manifest.py needs."""

    manifest: ManifestConfig
    images: ImagesConfig = ImagesConfig()
    model: ModelSourceConfig = ModelSourceConfig()
    compute: ComputeConfig = ComputeConfig()
    failure: FailureConfig = FailureConfig()
    output: OutputConfig
