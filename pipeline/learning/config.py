"""Settings of training, distillation and evaluation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.runs.settings import Section

Stream = Literal["tradition", "percept", "semantic"]
Backbone = Literal["alexnet", "vgg16", "squeezenet1_1", "alexnet_slim"]


class RatedSetConfig(Section):
    """Image pairs that people rated."""

    name: str = Field(description="name of the set in tables", min_length=1)
    path: str = Field(description="list of the pairs, .parquet or .csv, with mos or dmos")
    reference_column: str = Field("reference", description="column with the reference's path")
    distorted_column: str = Field("distorted", description="column with the distorted image's path")
    quarters: bool = Field(False, description="replace each pair by its quarters, with its rating")
    weight: float = Field(1.0, gt=0, description="factor of the set's loss in training")


class BappsSetConfig(Section):
    """A subset of BAPPS, or a folder in its layout."""

    name: str = Field(description="name of the set in tables", min_length=1)
    path: str = Field(description="folder of the subset, such as 2afc/train/cnn")
    weight: float = Field(1.0, gt=0, description="factor of the set's loss in training")


class SeveritySetConfig(Section):
    """Severity series: photographs, each distorted at five levels from weak to strong."""

    name: str = Field(description="name of the set in tables", min_length=1)
    path: str = Field(description="folder of photographs, .jpg or .png")
    kinds: tuple[str, ...] = Field((), description="distortions to use; empty uses all")
    held_out: tuple[str, ...] = Field(
        (), description="distortions, or whole families of them, to leave out"
    )
    num_series: int = Field(1600, ge=1, description="number of series")
    side_px: int = Field(256, ge=96, description="side in pixels of the square cut from a photo")
    seed: int = Field(0, ge=0, description="seed of the places and of the random distortions")
    weight: float = Field(1.0, gt=0, description="factor of the set's loss in training")


class JurySetConfig(SeveritySetConfig):
    """Severity series whose images a jury of metrics ranks; needs the `evaluation` extra."""

    jurors: tuple[str, ...] = Field(
        ("vsi", "mdsi", "haarpsi", "fsimc"), min_length=1, description="metrics of the jury"
    )


class TrainingDataConfig(Section):
    """Data sets to learn from, in any mixture."""

    rated: tuple[RatedSetConfig, ...] = Field(
        (), description="rated pairs", examples=[[{"name": "ours", "path": "pairs.csv"}]]
    )
    triplets: tuple[BappsSetConfig, ...] = Field((), description="BAPPS 2AFC subsets")
    severity_series: tuple[SeveritySetConfig, ...] = Field(
        (), description="photographs distorted at five levels, weak to strong"
    )
    jury: tuple[JurySetConfig, ...] = Field(
        (), description="distorted photographs that a jury of metrics ranks; needs data.cache"
    )
    cache: str | None = Field(
        None, description="local folder that keeps quality means and a jury's verdicts for reuse"
    )

    @model_validator(mode="after")
    def _a_jury_needs_a_cache(self) -> Self:
        if self.jury and self.cache is None:
            raise ValueError("expected cache, a folder for the jury's verdicts, got none")
        return self


class ArchitectureConfig(Section):
    """The model to train."""

    backbone: Backbone = Field("alexnet", description="network that the trunk is made of")
    backbone_weights: str | None = Field(
        None,
        description="file with the trunk's weights, or a SPIPS checkpoint that contains them; null "
        "takes torchvision's, or random ones for alexnet_slim, which torchvision does not have",
    )
    streams: tuple[Stream, ...] = Field(
        ("tradition", "percept", "semantic"), description="streams in use"
    )
    fusion: Literal["weighted", "mlp"] = Field(
        "weighted", description="weighted: the weighted sum of Eq. (12); mlp: a perceptron"
    )
    feature_norm: Literal["unit", "none"] = Field(
        "unit", description="unit: scale feature vectors to length one before Eq. (6); none: do not"
    )


class LoopConfig(Section):
    """How to train."""

    mode: Literal["lin", "tune", "scratch"] = Field(
        "lin", description="lin: freeze the trunk; tune: train it too; scratch: from random weights"
    )
    epochs: int = Field(30, ge=1, description="number of passes over the largest set")
    batch_size: int = Field(64, ge=2, description="examples of each set in a step")
    learning_rate: float = Field(
        0.02, gt=0, description="highest learning rate of a stream's weight, relative to its start"
    )
    trunk_learning_rate: float = Field(
        1e-4, gt=0, description="highest learning rate of the trunk; used in tune and scratch"
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="share of quality channels dropped in a step"
    )
    weight_decay_to_init: float = Field(
        0.0, ge=0, description="strength of the pull of the streams' weights to their start (L2-SP)"
    )
    crop_px: int = Field(256, ge=96, description="side of the crops in pixels, in tune and scratch")
    num_folds: int = Field(
        0, ge=0, description="number of further models, each with one fold of references held out"
    )
    by_family: bool = Field(
        False,
        description="train further models, each without one family of synthetic distortions",
    )
    seed: int = Field(0, ge=0, description="seed of every random number")

    @field_validator("num_folds")
    @classmethod
    def _one_fold_leaves_nothing(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0, or at least 2: one fold would hold out every reference")
        return value


class WorkersConfig(Section):
    """Processes that train together."""

    num_workers: int = Field(1, ge=1, description="number of processes")
    use_gpu: bool = Field(False, description="give each process one GPU")
    num_loaders: int = Field(1, ge=0, description="reading processes of each, in tune and scratch")


class TrainOutputConfig(Section):
    """Where checkpoints go."""

    uri: str = Field(description="output folder, any fsspec URI")
    name: str = Field("spips", description="name of the checkpoint file", pattern=r"^[\w.-]+$")


class TrainConfig(Section):
    """Settings of jobs/train.py."""

    data: TrainingDataConfig = Field(description="data sets to learn from")
    model: ArchitectureConfig = ArchitectureConfig()
    training: LoopConfig = LoopConfig()
    workers: WorkersConfig = WorkersConfig()
    output: TrainOutputConfig


class PhotosConfig(Section):
    """Photographs to learn from, distorted at random."""

    path: str = Field(description="folder of photographs, .jpg or .png")
    held_out: tuple[str, ...] = Field((), description="distortions to leave out")


class TeacherConfig(Section):
    """The large trunk that the small one imitates."""

    backbone: Literal["alexnet"] = Field(
        "alexnet", description="network whose taps have the places of the student's"
    )
    backbone_weights: str | None = Field(None, description="weights file; null takes torchvision's")


class DistillLoopConfig(Section):
    """How to train the small trunk."""

    num_steps: int = Field(4000, ge=20, description="number of steps")
    batch_size: int = Field(32, ge=2, description="pairs of crops in a step")
    side_px: int = Field(128, ge=96, description="side of the crops in pixels")
    learning_rate: float = Field(0.003, gt=0, description="highest learning rate of the cycle")
    num_loaders: int = Field(1, ge=0, description="number of processes that make the crops")
    seed: int = Field(0, ge=0, description="seed of every random number")


class TrunkOutputConfig(Section):
    """Where the trunk goes."""

    path: str = Field(description="local .safetensors file", pattern=r"\.safetensors$")


class DistillTrunkConfig(Section):
    """Settings of jobs/distill_trunk.py."""

    photos: PhotosConfig
    teacher: TeacherConfig = TeacherConfig()
    training: DistillLoopConfig = DistillLoopConfig()
    output: TrunkOutputConfig


class JudgedModelConfig(Section):
    """A SPIPS checkpoint to evaluate."""

    name: str = Field(description="name of the model in tables", min_length=1)
    checkpoint: str = Field(
        description="name of a packaged checkpoint, or a path; a path with {fold} names num_folds "
        "models, and each scores the references that it held out; a path with {family} names a "
        "model for each family of distortions, which it has not learned from"
    )
    num_folds: int = Field(1, ge=1, description="number of models if the path contains {fold}")
    backbone_weights: str | None = Field(
        None, description="file with the trunk's weights; null takes torchvision's"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="number format in which the trunk computes"
    )

    @model_validator(mode="after")
    def _folds_have_a_path_each(self) -> Self:
        if ("{fold}" in self.checkpoint) != (self.num_folds > 1):
            raise ValueError(
                "expected {fold} in checkpoint and num_folds of at least 2, or neither, got "
                f"checkpoint {self.checkpoint} and num_folds {self.num_folds}"
            )
        return self


class PeersConfig(Section):
    """Other metrics to compare with; they need the `evaluation` extra."""

    names: tuple[str, ...] = Field(
        (
            "psnr",
            "ssim",
            "ms_ssim",
            "iw_ssim",
            "vif",
            "vsi",
            "mdsi",
            "haarpsi",
            "fsimc",
            "dists",
            "lpips_alexnet",
            "lpips_squeezenet1_1",
        ),
        description="metrics to compare with",
    )
    alexnet_weights: str | None = Field(
        None, description="file with lpips_alexnet's trunk; null takes torchvision's"
    )
    squeezenet1_1_weights: str | None = Field(
        None, description="file with lpips_squeezenet1_1's trunk; null takes torchvision's"
    )


class EvaluationDataConfig(TrainingDataConfig):
    """Data sets to judge on."""

    just_noticeable: tuple[BappsSetConfig, ...] = Field((), description="BAPPS JND subsets")


class EvaluationOutputConfig(Section):
    """Where the tables go."""

    uri: str = Field(description="output folder, any fsspec URI")
    bootstrap_samples: int = Field(
        1000, ge=0, description="bootstrap draws for each interval; 0 gives no intervals"
    )


class EvaluateConfig(Section):
    """Settings of jobs/evaluate.py."""

    data: EvaluationDataConfig = Field(description="data sets to judge on")
    models: tuple[JudgedModelConfig, ...] = Field(
        (JudgedModelConfig(name="SPIPS embedded", checkpoint="embedded"),),
        description="checkpoints to evaluate",
    )
    peers: PeersConfig = PeersConfig()
    output: EvaluationOutputConfig
