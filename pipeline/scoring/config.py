"""Settings of scoring: one class per section of the YAML, each field with unit and bound."""

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.runs.settings import Section, Sha256, Uri
from pipeline.runs.uris import explain_relative, is_relative, redact

MIN_SIDE_PX = 96
"""The model's lower bound, repeated here because reading a config must not import torch."""


NEWEST = "newest"


class ManifestConfig(Section):
    """The list of pairs."""

    uri: Uri = Field(
        description="Parquet file, folder or glob: a local path or any fsspec URI. Of a folder, "
        "the files named .parquet, .parq or .pq are read, in lower or upper case. Or the folder of "
        "a Delta or Iceberg table, or the .metadata.json file of an Iceberg table.",
    )
    version: int | None = Field(
        None,
        ge=0,
        description="Of a Delta table, its version; of an Iceberg table, the id of its snapshot; "
        "null: the current one.",
    )
    pair_id_column: str = Field(
        "pair_id", min_length=1, description="Column with the pairs' unique ids (string)."
    )
    reference_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the undistorted images: URIs (string), encoded bytes "
        "(binary), or a struct of bytes and path, of which bytes are taken unless they are null. "
        "null: reference_uri or reference_bytes, whichever the manifest has.",
    )
    distorted_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the images to judge: URIs (string), encoded bytes (binary), "
        "or a struct of bytes and path. null: distorted_uri or distorted_bytes, whichever "
        "the manifest has.",
    )


class ImagesConfig(Section):
    """Which images are accepted, and the size at which they are scored."""

    max_bytes: int = Field(
        67_108_864, gt=0, description="Largest encoded image in bytes; a larger one is too_large."
    )
    max_pixels: int = Field(
        16_777_216,
        gt=0,
        description="Largest image in pixels (H x W); a larger one is too_large. It is checked in "
        "the image's header before decoding, and again after resizing.",
    )
    max_decode_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="Longest time to decode an image, in seconds; a slower one is timed_out.",
    )
    min_side_px: int = Field(
        MIN_SIDE_PX,
        ge=MIN_SIDE_PX,
        description="Shortest side in pixels at which a pair is scored; below it, too_small.",
    )
    colour_profiles: Literal["convert", "ignore"] = Field(
        "convert",
        description="convert: show colours as a browser does, by converting ICC profiles, cICP, "
        "gAMA with cHRM, and nclx to sRGB; ignore: take all samples for sRGB.",
    )
    size_mismatch: Literal["error", "resize", "crop"] = Field(
        "error",
        description="For a pair of two sizes: error gives the row the status size_mismatch, resize "
        "resizes the distorted image to the reference's size (bicubic, antialiased), crop keeps "
        "the centre of each that is as large as both allow, if they differ by at most max_crop_px.",
    )
    max_crop_px: int = Field(
        16,
        gt=0,
        description="With size_mismatch crop: largest difference in height and in width, in "
        "pixels; above it, size_mismatch.",
    )
    resize: int | None = Field(
        None,
        ge=MIN_SIDE_PX,
        description="Resize both images until the shorter side has this many pixels (bicubic, "
        "antialiased); null: score them at their own size.",
    )
    allowed_uri_prefixes: tuple[Uri, ...] | None = Field(
        None,
        description="Image URIs outside these folders are forbidden; null: any URI is allowed. "
        "Give absolute paths or full URIs.",
    )

    @field_validator("allowed_uri_prefixes")
    @classmethod
    def _prefixes_are_absolute(cls, prefixes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for prefix in prefixes or ():
            if is_relative(prefix):
                raise ValueError(f"{explain_relative(prefix)}: {redact(prefix)!r}")
        return prefixes


class ModelSourceConfig(Section):
    """The model that scores."""

    checkpoint: Uri = Field(
        "embedded",
        description="Name of a checkpoint in the package, a path, or an fsspec URI.",
    )
    checkpoint_sha256: Sha256 | None = Field(
        None, description="Expected sha256 of the checkpoint file; required for a remote URI."
    )
    backbone_weights: Uri | None = Field(
        None,
        description="Path or fsspec URI of the trunk's weights (.safetensors or .pth), for a "
        "checkpoint without a trunk; null: torchvision's ImageNet weights.",
    )
    backbone_weights_sha256: Sha256 | None = Field(
        None, description="Expected sha256 of the weights file; required for a remote URI."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of the trunk; everything else uses float32."
    )
    lpips: bool = Field(
        False,
        description="Fill the column lpips: LPIPS v0.1 from the features of the same trunk, which "
        "must be torchvision's alexnet or squeezenet1_1.",
    )

    @model_validator(mode="after")
    def _remote_files_have_digests(self) -> Self:
        for name in ("checkpoint", "backbone_weights"):
            uri, sha256 = getattr(self, name), getattr(self, f"{name}_sha256")
            is_remote = "://" in (uri or "").removeprefix("file://") or "::" in (uri or "")
            if is_remote and sha256 is None:
                raise ValueError(f"expected {name}_sha256 for a remote {name}, got null")
        return self


class ComputeConfig(Section):
    """The machines' resources."""

    scorers: int | None = Field(
        None,
        gt=0,
        description="Number of scorers, Ray's processes that score; null: one per GPU, or one per "
        "CPU on a cluster without GPUs, but at most one per 500 pairs of 256 px; so few pairs are "
        "scored without Ray if there is neither cluster nor GPU. GPUs and CPUs are counted when "
        "the run starts, so set this on a cluster that scales.",
    )
    gpus_per_scorer: float | None = Field(
        None,
        ge=0,
        description="GPUs per scorer; a fraction shares a GPU, and 0 scores on CPUs; null: 1 on a "
        "cluster with GPUs, else 0.",
    )
    pixels_per_batch: int = Field(
        4_194_304,
        gt=0,
        description="Pixels (pairs x H x W) per block between stages and per scorer's call on a "
        "GPU; a call on a CPU takes at most 262,144 pixels. Scores on CPUs do not depend on it.",
    )
    compile: bool | None = Field(
        None,
        description="Compile the kernels when a scorer starts, which takes up to a minute and "
        "changes scores by less than 1e-5; null: as the run of output.reuse_from did, else on "
        "CPUs, if each scorer has at least 6,000 pairs. Without a C++ compiler (on a GPU: without "
        "Triton) a warning is logged instead.",
    )


class FailureConfig(Section):
    """How many failed rows are an alarm."""

    max_failed_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of rows that may fail, 0 to 1; if more fail, the results are published "
        "and the exit code is 3.",
    )


def _check_night(night: object) -> object:
    """Refuse what pydantic would take for seconds since 1970."""
    if isinstance(night, date) or re.fullmatch(r"\d{4}-\d\d-\d\d", str(night)):
        return night
    raise ValueError("expected a date, YYYY-MM-DD")


class OutputConfig(Section):
    """Where results are written."""

    uri: Uri = Field(
        description="Folder of all runs: a local path or any fsspec URI. A run writes to "
        "run-<id>/ in it.",
    )
    run_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=128,
        description="Name of the run; null: a hash of manifest, model, scoring settings and night.",
    )
    night: Annotated[date, BeforeValidator(_check_night)] | None = Field(
        None,
        description="Date of the run, YYYY-MM-DD. It gives the run its place among others, in "
        "baselines and trends, whenever it is scored; null: the day on which it starts (UTC).",
    )
    delta_uri: Uri | None = Field(
        None,
        description="Delta table to which the published results are written, too: a local path, or "
        "a URI that deltalake opens. It is made if it does not exist, and has a partition for each "
        "run. null: none.",
    )
    reuse_from: Uri | None = Field(
        None,
        description="Finished run of the same model and image settings, run-<id>'s URI, from which "
        "rows take their scores if their images have not changed; newest: the newest such run in "
        "output.uri; null: score every row.",
    )
    rows_per_file: int = Field(
        10_000,
        gt=0,
        description="Largest number of rows in a result file. A killed writer loses at most twice "
        "this many rows, or two load tasks if that is more: 256 rows, or 2,048 with reuse_from.",
    )


class ScoreManifestConfig(Section):
    """All settings of jobs/score_manifest.py."""

    manifest: ManifestConfig
    images: ImagesConfig = ImagesConfig()
    model: ModelSourceConfig = ModelSourceConfig()
    compute: ComputeConfig = ComputeConfig()
    failure: FailureConfig = FailureConfig()
    output: OutputConfig
