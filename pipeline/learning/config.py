"""Settings of training and evaluation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.runs.settings import Section

Stream = Literal["tradition", "percept", "semantic"]
Backbone = Literal["alexnet", "vgg16", "squeezenet1_1", "alexnet_narrow"]


class RatedSetConfig(Section):
    """Image pairs that people rated."""

    name: str = Field(description="what tables call the set", min_length=1)
    path: str = Field(description="list of the pairs, .parquet or .csv, with mos or dmos")
    reference_column: str = Field("reference", description="column with the reference's path")
    distorted_column: str = Field("distorted", description="column with the distorted one's path")
    quarters: bool = Field(
        False, description="take each pair's four quarters, rated as the whole, instead of it"
    )
    weight: float = Field(1.0, gt=0, description="factor of its loss")


class FolderSetConfig(Section):
    """A subset of BAPPS, or one in its layout."""

    name: str = Field(description="what tables call the set", min_length=1)
    path: str = Field(description="the subset's folder, such as 2afc/train/cnn")
    weight: float = Field(1.0, gt=0, description="factor of its loss")


class SeveritySetConfig(Section):
    """Photographs, spoiled in known order."""

    name: str = Field(description="what tables call the set", min_length=1)
    path: str = Field(description="folder of photographs, .jpg or .png")
    kinds: tuple[str, ...] = Field((), description="distortions to use; none means all")
    held_out: tuple[str, ...] = Field((), description="distortions to leave out")
    num_series: int = Field(1600, ge=1, description="number of severity_series of five levels")
    side_px: int = Field(256, ge=96, description="side of the square cut from each photograph")
    seed: int = Field(0, ge=0, description="of places and of random distortions")
    weight: float = Field(1.0, gt=0, description="factor of its loss")


class TrainingDataConfig(Section):
    """What to learn from: any mixture."""

    rated: tuple[RatedSetConfig, ...] = Field((), description="rated pairs")
    triplets: tuple[FolderSetConfig, ...] = Field((), description="BAPPS 2AFC subsets")
    severity_series: tuple[SeveritySetConfig, ...] = Field(
        (), description="distortions of known order"
    )
    cache: str | None = Field(
        None, description="local folder that keeps what a frozen trunk makes of a set"
    )


class ArchitectureConfig(Section):
    """The model to train."""

    backbone: Backbone = Field("alexnet", description="the trunk")
    backbone_weights: str | None = Field(
        None,
        description="path to the trunk's weights, or to a SPIPS checkpoint that holds them; null "
        "takes torchvision's, or random ones for alexnet_narrow, which torchvision has not",
    )
    streams: tuple[Stream, ...] = Field(
        ("tradition", "percept", "semantic"), description="streams in use"
    )
    fusion: Literal["weighted", "mlp"] = Field("weighted", description="Eq. (12), or a perceptron")
    feature_norm: Literal["unit", "none"] = Field(
        "unit", description="scale feature vectors to length one before Eq. (6), or not"
    )


class LoopConfig(Section):
    """How to train."""

    mode: Literal["lin", "tune", "scratch"] = Field(
        "lin", description="trunk frozen, trained on, or trained from random weights"
    )
    epochs: int = Field(30, ge=1, description="rounds through the largest set")
    batch_size: int = Field(64, ge=2, description="examples of each set in a step")
    learning_rate: float = Field(
        0.02, gt=0, description="highest, of a stream's weights, relative to their start"
    )
    trunk_learning_rate: float = Field(1e-4, gt=0, description="highest, in tune and scratch")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of channels left out in each step")
    weight_decay_to_init: float = Field(
        0.0, ge=0, description="how strongly the streams' weights are held to their start"
    )
    crop_px: int = Field(256, ge=96, description="side of crops in tune and scratch, in pixels")
    num_folds: int = Field(
        0,
        ge=0,
        description="also train this many models, each with one fold of the references held out",
    )
    seed: int = Field(0, ge=0, description="of every random number")

    @field_validator("num_folds")
    @classmethod
    def _one_fold_leaves_nothing(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0, or at least 2: one fold would hold out every reference")
        return value


class WorkersConfig(Section):
    """Processes that train together."""

    num_workers: int = Field(1, ge=1, description="number of processes")
    use_gpu: bool = Field(False, description="one GPU each")
    num_loaders: int = Field(1, ge=0, description="reading processes of each, in tune and scratch")


class TrainOutputConfig(Section):
    """Where checkpoints go."""

    uri: str = Field(description="folder, any fsspec URI")
    name: str = Field("spips", description="of the checkpoint file", pattern=r"^[\w.-]+$")


class TrainConfig(Section):
    """Everything that jobs/train.py takes."""

    data: TrainingDataConfig = Field(description="what to learn from")
    model: ArchitectureConfig = ArchitectureConfig()
    training: LoopConfig = LoopConfig()
    workers: WorkersConfig = WorkersConfig()
    output: TrainOutputConfig


class PhotosConfig(Section):
    """Photographs to learn from, spoiled in random ways."""

    path: str = Field(description="folder of photographs, .jpg or .png")
    held_out: tuple[str, ...] = Field((), description="distortions to leave out")


class TeacherConfig(Section):
    """The large trunk that the small one learns to see like."""

    backbone: Literal["alexnet"] = Field(
        "alexnet", description="a trunk whose taps lie where the student's do"
    )
    backbone_weights: str | None = Field(
        None, description="path to its weights; null takes torchvision's"
    )


class DistillLoopConfig(Section):
    """How to train the small trunk."""

    num_steps: int = Field(4000, ge=20, description="number of steps")
    batch_size: int = Field(32, ge=2, description="pairs of crops in a step")
    side_px: int = Field(128, ge=96, description="side of the crops in pixels")
    learning_rate: float = Field(0.003, gt=0, description="highest, of one cycle")
    num_loaders: int = Field(1, ge=0, description="processes that make the crops")
    seed: int = Field(0, ge=0, description="of every random number")


class TrunkOutputConfig(Section):
    """Where the trunk goes."""

    path: str = Field(description="local .safetensors file", pattern=r"\.safetensors$")


class DistillTrunkConfig(Section):
    """Everything that jobs/distill_trunk.py takes."""

    photos: PhotosConfig
    teacher: TeacherConfig = TeacherConfig()
    training: DistillLoopConfig = DistillLoopConfig()
    output: TrunkOutputConfig


class JudgedModelConfig(Section):
    """A SPIPS checkpoint to judge."""

    name: str = Field(description="what tables call it", min_length=1)
    checkpoint: str = Field(
        description="name of a packaged checkpoint, or a path; with {fold} in it, one of "
        "num_folds models, each used for the references that it has not learned from"
    )
    num_folds: int = Field(1, ge=1, description="number of models when the path has {fold}")
    backbone_weights: str | None = Field(
        None, description="path to the trunk's weights; null takes torchvision's"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="type that the trunk computes in"
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
    """Other metrics, from the `evaluation` extra."""

    names: tuple[str, ...] = Field(
        ("psnr", "ssim", "ms_ssim", "vif", "dists", "lpips_alexnet", "lpips_squeezenet1_1"),
        description="metrics to compare with",
    )
    alexnet_weights: str | None = Field(None, description="trunk of lpips_alexnet, as above")
    squeezenet1_1_weights: str | None = Field(
        None, description="trunk of lpips_squeezenet1_1, as above"
    )


class EvaluationDataConfig(TrainingDataConfig):
    """What to judge on."""

    just_noticeable: tuple[FolderSetConfig, ...] = Field((), description="BAPPS JND subsets")


class EvaluationOutputConfig(Section):
    """Where the tables go."""

    uri: str = Field(description="folder, any fsspec URI")
    bootstrap_samples: int = Field(1000, ge=0, description="draws behind each interval; 0: none")


class EvaluateConfig(Section):
    """Everything that jobs/evaluate.py takes."""

    data: EvaluationDataConfig = Field(description="what to judge on")
    models: tuple[JudgedModelConfig, ...] = Field(
        (JudgedModelConfig(name="SPIPS embedded", checkpoint="embedded"),),
        description="checkpoints to judge",
    )
    peers: PeersConfig = PeersConfig()
    output: EvaluationOutputConfig
