"""The JSON files of a run's folder, typed: plan.json, run.json and lock.json.

A record of a larger `version` than this code's is refused. Up to that, keys that a reader does not
know are ignored. Version 0.2 of this project wrote no `version`; its files count as version 1.
"""

from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pipeline.runs.errors import ContractError

Json = dict[str, Any]
RECORD_VERSION = 3
"""The version that this code writes. Up to version 2, a retry left its rows' old results among the
result files; since version 3 it replaces them."""


class Record(BaseModel):
    """One JSON object: frozen, and unknown keys are ignored."""

    # Infinity stays infinity, so that writing it as JSON fails; pydantic would write null.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


AnyRecord = TypeVar("AnyRecord", bound=Record)


class ModelInfo(Record):
    """The model that scores a run.

    Attributes:
        digest: sha256 over config and weights.
        trained: whether its streams were fitted to human judgements.
        training: how they were fitted; empty when they were not.
        config: the architecture, as `spips_core.ModelConfig` names its fields.
        fusion_weights: Eq. (12)'s weight of each stream; None when a perceptron fuses the streams.
        dmos_scale: the scale of `expected_dmos`, as `spips_core.DmosScale` names its fields; None
            when the checkpoint has none.
    """

    digest: str
    trained: bool
    training: dict[str, str]
    config: Json
    fusion_weights: dict[str, float] | None
    dmos_scale: dict[str, float] | None = None


class ColumnsRecord(Record):
    """The manifest's column names.

    Attributes:
        pair_id: column with each pair's id.
        reference: column with the undistorted images.
        distorted: column with the images to judge.
    """

    pair_id: str
    reference: str
    distorted: str


class AttemptRecord(Record):
    """One scoring of a run's rows: the first attempt scores all, later ones only failed rows.

    Attributes:
        files: what it wrote, relative to the run's folder. Since version 3, the first attempt's
            files hold the newest result of every row.
        num_rows: rows in this attempt.
        num_rows_resumed: rows that interrupted processes had already scored.
        scorers: the scorers, as `pipeline.scoring.resources.Scorers` names its fields. Version 0.2
            wrote them as `workers`, with other field names.
        started_at: when the last process of this attempt started, UTC, ISO 8601.
        elapsed_s: seconds from then to the last result.
        rows_per_s: rows that this process scored per second.
        fetch_retries: how often images were fetched again.
        notes: lines for people on what this attempt found.
    """

    files: tuple[str, ...]
    num_rows: int
    num_rows_resumed: int
    scorers: Json = Field(validation_alias=AliasChoices("scorers", "workers"))
    started_at: str
    elapsed_s: float
    rows_per_s: float
    fetch_retries: int
    notes: tuple[str, ...] = ()


class PlanRecord(Record):
    """plan.json: what a run's folder will hold.

    Attributes:
        version: of this record, see `RECORD_VERSION`.
        run_id: name of the run.
        night: the date that the settings give it, YYYY-MM-DD; None if they give none.
        fingerprints: sha256 of manifest, model and scoring settings, by name, and the night if one
            is given. Two runs with the same fingerprints are the same run.
        num_rows: rows of the manifest.
        columns: the manifest's column names.
        model: what scores.
        config: every setting of the job, without secrets.
        versions: Python's version and those of the packages that can change a score.
    """

    version: int = 1
    run_id: str
    night: str | None = None
    fingerprints: dict[str, str]
    num_rows: int
    columns: ColumnsRecord
    model: ModelInfo
    config: Json
    versions: dict[str, str]


class RunRecord(PlanRecord):
    """run.json: the plan, and what came of it.

    Attributes:
        attempts: every published attempt, oldest first.
        counts_by_status: number of rows with each status, zeros included.
        failed_fraction: share of rows whose status is not "ok", 0 to 1.
        reused_rows: number of rows with scores of an earlier run, by the run that computed them.
        finished_at: when the last attempt was published, UTC, ISO 8601.
    """

    attempts: tuple[AttemptRecord, ...] = Field(min_length=1)
    counts_by_status: dict[str, int]
    failed_fraction: float
    reused_rows: dict[str, int] = Field(default_factory=dict)
    finished_at: str


class LockRecord(Record):
    """lock.json: which process writes to a run's folder.

    Attributes:
        holder: random name of the process's lock.
        process: its process id.
        place: boot id and process namespace, in which the process id is unique; None if unknown.
        host: its machine.
        beats: how often it has written the file.
    """

    holder: str
    process: int
    place: str | None
    host: str
    beats: int


def parse_record(record_class: type[AnyRecord], content: Json, uri: str) -> AnyRecord:
    """Return a JSON object as a record.

    Args:
        record_class: which record.
        content: the JSON object.
        uri: of the file, without secrets, for the message.

    Raises:
        ContractError: a newer version of this project wrote it, or keys are missing or have other
            types; one line names all of them.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > RECORD_VERSION:
        raise ContractError(
            f"{uri}: expected a record of version {RECORD_VERSION} or older, got version "
            f"{version}; read it with a newer version of this project"
        )
    try:
        return record_class.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, entry["loc"])), entry["msg"])))
            for entry in error.errors()
        )
        raise ContractError(
            f"{uri}: expected what version 0.2 of this project or a later one writes, "
            f"got {problems}"
        ) from error
