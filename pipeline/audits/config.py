"""Settings of the audit job, and what those of the filter job share with them."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.audits.links import check_template
from pipeline.runs.settings import Section, Uri

MIN_NIGHTS = 5
"""Gates learn the noise from at least so many nights; of fewer, the interval would be too wide."""
NOISE: Literal["noise"] = "noise"

Value = Annotated[float, Field(ge=-1e38, le=1e38)]
"""A bound on float32 values."""


def _check_each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("expected each column once")
    return names


def _check_change(value: object) -> object:
    """Check a bound on a change, so that a wrong one is one problem, not one for each type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != NOISE and not (is_number and 0 <= value <= 1e38):  # type: ignore[operator]
        raise ValueError(f"expected a number of at least 0, or {NOISE}")
    return value


Change = Annotated[float | Literal["noise"], BeforeValidator(_check_change)]
"""A bound on a rise or fall; noise is learned from earlier nights."""

Columns = Annotated[tuple[str, ...], AfterValidator(_check_each_once)]

Column = Literal[
    "spips_score", "expected_dmos", "tradition_score", "percept_score", "semantic_score",
    "psnr_db", "ssim", "ms_ssim", "lpips",
]  # fmt: skip
Figure = Literal["mean", "median", "p5", "p95", "p99", "share_above", "failed_fraction"]


class FigureName(NamedTuple):
    """Which figure; column and threshold are None where the figure has none."""

    column: str | None
    figure: str
    threshold: float | None = None


GATE_BOUNDS = ("at_most", "at_least", "rise_at_most", "fall_at_most")


class RunConfig(Section):
    """The run to read."""

    uri: Uri = Field(
        description="Folder of a finished run, .../run-<id>, or a folder of runs; the newest "
        "finished run of a folder is read. Any fsspec URI."
    )


class BaselineConfig(Section):
    """The runs to compare with."""

    uri: Uri | None = Field(
        None,
        description="Folder of a finished run, or a folder of runs; in a folder, the newest runs "
        "before this run, in the order of nights, are the baseline. null: no baseline.",
    )
    last_runs: int = Field(
        7, gt=0, description="Number of runs to take from a folder of runs. They count together."
    )
    audits_uri: Uri | None = Field(
        None,
        description="Folder of audits, each in a folder of its run's id. From a folder of runs, "
        "those whose audit broke a gate are left out. null: none are.",
    )
    accept: tuple[str, ...] = Field(
        (),
        description="Ids of runs that count though their audit broke a gate. One alone makes a "
        "second state of the model for gates of noise.",
    )


class NoiseConfig(Section):
    """What gates of noise learn from."""

    nights: int = Field(
        14, ge=MIN_NIGHTS, le=100,
        description="Number of good nights to learn from, the newest of a folder of runs.",
    )  # fmt: skip
    false_alarm_rate: float = Field(
        0.05, gt=0, lt=0.5,
        description="Share of nights of an unchanged model in which a gate of noise may break, all "
        "of its groups together.",
    )  # fmt: skip


class GateConfig(Section):
    """A bound that a release must keep."""

    column: Column | None = Field(
        None, description="Column of the figure; null only for failed_fraction."
    )
    figure: Figure = Field(
        description="The figure; it covers the rows that are ok. A mean leaves out infinite "
        "psnr_db, unless all are infinite."
    )
    threshold: Value | None = Field(
        None, description="For share_above: count the values above this threshold."
    )
    at_most: Value | None = Field(None, description="Broken if the figure is above this.")
    at_least: Value | None = Field(None, description="Broken if the figure is below this.")
    rise_at_most: Change | None = Field(
        None,
        description="Broken if the mean rose from the baseline by more than this. noise: if the "
        "figure rose by more than it varies between good nights.",
    )
    fall_at_most: Change | None = Field(
        None,
        description="Broken if the mean fell from the baseline by more than this. noise: if the "
        "figure fell by more than it varies between good nights.",
    )
    otherwise: Value | None = Field(
        None, ge=0,
        description=f"For noise: the bound if there are fewer than {MIN_NIGHTS} nights.",
    )  # fmt: skip
    each_group: bool = Field(
        False, description="Judge each group of group_by; without groups, all rows together."
    )
    with_confidence: bool = Field(
        False,
        description="Broken only if the whole confidence interval is beyond the bound; not judged "
        "if fewer than 10 rows or pairs have a value.",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = given_bound(self, GATE_BOUNDS)
        if self.is_noise != (self.otherwise is not None):
            got = "none" if self.is_noise else f"one with {given}: {getattr(self, given)}"
            raise ValueError(f"expected otherwise, a fixed bound for fewer than {MIN_NIGHTS} "
                             f"nights, for {NOISE} and for nothing else, got {got}")  # fmt: skip
        if self.is_noise and self.with_confidence:
            raise ValueError(f"expected with_confidence for a fixed bound, got it for {NOISE}")
        if self.compares and not self.is_noise and self.figure != "mean":
            raise ValueError(f"expected figure mean with {given}, got {self.figure}")
        if (self.column is None) != (self.figure == "failed_fraction"):
            raise ValueError(f"expected a column for every figure except failed_fraction, got "
                             f"{self.column} for {self.figure}")  # fmt: skip
        if (self.threshold is None) == (self.figure == "share_above"):
            raise ValueError("expected a threshold for share_above and for no other figure")
        return self

    @property
    def bound(self) -> tuple[str, float]:
        """Name and value of the bound; for noise, that of too few nights."""
        name = given_bound(self, GATE_BOUNDS)
        value = self.otherwise if self.is_noise else getattr(self, name)
        return name, float(value or 0)

    @property
    def figure_name(self) -> FigureName:
        """What the gate bounds."""
        return FigureName(self.column, self.figure, self.threshold)

    @property
    def is_noise(self) -> bool:
        """Whether the bound is learned from earlier nights."""
        return NOISE in (self.rise_at_most, self.fall_at_most)

    @property
    def falls(self) -> bool:
        """Whether the gate bounds a fall."""
        return self.fall_at_most is not None

    @property
    def compares(self) -> bool:
        """Whether the gate needs a baseline."""
        return self.rise_at_most is not None or self.fall_at_most is not None


class CompareConfig(Section):
    """How the models that `compare_by` names are compared."""

    reference_column: str | None = Field(
        None,
        description="Pass-through column that names each pair's reference. null: the manifest's "
        "own column of reference URIs; needed if the manifest holds the images' bytes.",
    )
    smallest_visible_difference: Value | None = Field(
        None,
        ge=0,
        description="Two models tie on a reference if their spips_scores differ by less than this. "
        "null: if the expected_dmos of their scores differ by less than 5 points of 100; if the "
        "checkpoint has no scale for it, only equal scores tie.",
    )


class ReportConfig(Section):
    """What the report contains."""

    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Confidence level of all intervals, 0.5 to 1."
    )
    bootstrap_samples: int = Field(
        1000, ge=100, description="Number of bootstrap draws for the intervals of means."
    )
    pairs_per_sheet: int = Field(
        8,
        ge=0,
        le=100,
        description="Pairs on each contact sheet: worst, most changed, random. 0: no sheets.",
    )
    image_side_px: int = Field(
        384, ge=64, le=1024, description="Longest side of an image in the report, in pixels."
    )
    link_template: Annotated[str, AfterValidator(check_template)] | None = Field(
        None,
        description="Link to images in stores that a browser cannot open, such as "
        "https://console.example.com/s3/{bucket}/{key} for s3://bucket/key; {scheme} is s3. "
        "null: their URIs are no links.",
    )
    seed: int = Field(0, ge=0, description="Seed of the random sample and of the bootstrap.")
    mlflow_experiment: str | None = Field(
        None,
        min_length=1,
        description="MLflow experiment to which figures and report are logged, with the extra "
        "spips[mlflow] and MLFLOW_TRACKING_URI in the environment. null: none.",
    )


class AuditOutputConfig(Section):
    """Where the report is written."""

    uri: Uri = Field(
        description="Folder for audit.html and the report's other files; any fsspec URI. An "
        "earlier report in it is replaced."
    )


class AuditScoresConfig(Section):
    """All settings of jobs/audit_scores.py."""

    scores: RunConfig
    baseline: BaselineConfig = BaselineConfig()
    noise: NoiseConfig = NoiseConfig()
    group_by: Columns = Field(
        (),
        description="Pass-through columns of texts, numbers, flags, dates or times; each "
        "combination of their values is a group.",
    )
    compare_by: str | None = Field(
        None,
        description="Pass-through column that names the model of each pair, for a leaderboard: "
        "models are compared on the references that they share. At most 50 models.",
    )
    compare: CompareConfig = CompareConfig()
    thresholds: dict[Column, tuple[Value, ...]] = Field(
        {"spips_score": (0.1, 0.3)},
        description="Thresholds by column; the report shows the share of rows above each one.",
    )
    gates: tuple[GateConfig, ...] = Field(
        (),
        description="Bounds that a release must keep. If one is broken, the exit code is 4.",
        examples=[[{"column": "spips_score", "figure": "p95", "at_most": 0.35}]],
    )
    gates_unjudged: Literal["pass", "fail"] = Field(
        "fail",
        description="What gates on a rise or fall mean that have nothing to compare with: with "
        "fail the exit code is 4, with pass it is that of the other gates. Give pass on the first "
        "night of a series.",
    )
    report: ReportConfig = ReportConfig()
    output: AuditOutputConfig

    @model_validator(mode="after")
    def _gates_have_a_baseline(self) -> Self:
        if self.baseline.uri is None and any(gate.compares for gate in self.gates):
            raise ValueError("expected baseline.uri for gates on a rise or fall, got none")
        return self

    def thresholds_of(self, column: str) -> list[float]:
        """Return the thresholds of a score column, with those of its gates, ascending."""
        listed = {t for name, values in self.thresholds.items() if name == column for t in values}
        gated = {gate.threshold for gate in self.gates if gate.column == column}
        return sorted(listed | {t for t in gated if t is not None})


class RerunsConfig(Section):
    """Runs of an unchanged model on the same pairs."""

    uris: tuple[Uri, ...] = Field(
        min_length=1,
        description="Folders of finished runs, at least two, or folders of runs, of which all "
        "count; any fsspec URI.",
    )


class MeasureNoiseConfig(Section):
    """All settings of jobs/measure_noise.py."""

    scores: RerunsConfig
    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = Field(
        ("spips_score",), description="Score columns."
    )
    figures: Annotated[
        tuple[Literal["mean", "median", "p5", "p95", "p99"], ...], Field(min_length=1)
    ] = Field(("mean", "median", "p95"), description="Figures of each column.")
    group_by: Columns = Field(
        (), description="Pass-through columns; each combination of their values is a group."
    )
    false_alarm_rate: float = Field(
        0.05, gt=0, lt=0.5,
        description="Share of nights of an unchanged model in which a gate may break.",
    )  # fmt: skip


def given_bound(section: Section, names: tuple[str, ...]) -> str:
    """Return the name of the one bound that a section gives; raise if it is not exactly one."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of {', '.join(names)}, got {given or 'none'}")
    return given[0]
