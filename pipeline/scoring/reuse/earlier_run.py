"""Choose the earlier run whose scores are used again, and check that they are this run's scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc
import pyarrow.dataset
from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun, find_runs, open_run, scan_by_file
from pipeline.runs.records import Json, PlanRecord
from pipeline.runs.schema import IMAGE_FIELDS, REUSE_FIELD
from pipeline.runs.storage import arrow_filesystem
from pipeline.runs.summary import counted
from pipeline.runs.uris import redact
from pipeline.scoring.config import NEWEST, OutputConfig
from pipeline.scoring.resources import ID_ROWS_PER_READ, Scorers
from pipeline.scoring.reuse.known_scores import SHA256, TAGS, KnownScores, kernels_of

SETTING = "output.reuse_from"


@dataclass(frozen=True)
class EarlierRun:
    """The finished run from which a run takes scores.

    Attributes:
        run: the run.
        is_required: whether the user named it; else it is the newest that fits.
    """

    run: FinishedRun
    is_required: bool


def choose_earlier(
    output: OutputConfig, run_id: str, record: PlanRecord
) -> tuple[EarlierRun | None, list[str]]:
    """Return the run that `output.reuse_from` names, if there is one; and notes for people.

    Args:
        output: the settings.
        run_id: of the run that is planned.
        record: its plan.

    Raises:
        ContractError: there is no such run, it is unfinished, or its scores would be different.
        FaultError: its store is away.
    """
    if output.reuse_from is None:
        return None, []
    if output.reuse_from != NEWEST:
        try:
            run = open_run(output.reuse_from)
        except ContractError as error:
            raise ContractError(*(f"{SETTING}: {line}" for line in error.problems)) from error
        if reason := why_not(run, record):
            raise ContractError(f"{SETTING}: {reason}")
        return EarlierRun(run, is_required=True), list(_compare_versions(run, record))
    reasons = []
    for run in _finished_beside(output.uri):
        if run.run_id == run_id:
            continue
        if not (reason := why_not(run, record)):
            return EarlierRun(run, is_required=False), list(_compare_versions(run, record))
        reasons.append(reason)
    got = f"; of the newest: {reasons[0]}" if reasons else ""
    return None, [
        f"note: every row is scored: {SETTING} is {NEWEST}, and {redact(output.uri)} has no "
        f"finished run whose scores can be used again{got}"
    ]


def _finished_beside(output_uri: str) -> Sequence[FinishedRun]:
    """Return the finished runs in a folder of runs, newest first."""
    try:
        return find_runs(output_uri)[0][::-1]
    except ContractError:  # the folder does not exist yet, or has no finished run
        return []


def why_not(run: FinishedRun, record: PlanRecord) -> str:
    """Return why scores of a run are not those that a plan would give, or ""."""
    earlier = run.record
    if earlier.model.digest != record.model.digest:
        return (
            f"expected a run of the model {record.model.digest[:16]}, got {run.uri}, scored by "
            f"{earlier.model.digest[:16]}"
        )
    expected, got = (_settings(one) for one in (record, earlier))
    for name in expected | got:
        if expected.get(name) != got.get(name):
            return (
                f"expected a run with {name} {expected.get(name)}, got {run.uri} with "
                f"{got.get(name)}"
            )
    missing = [
        field.name
        for field in (*IMAGE_FIELDS, REUSE_FIELD)
        if field.name not in run.scores.schema.names
    ]
    if missing:
        return (
            f"expected a run whose results have the column {missing[0]}, got {run.uri} of an "
            "earlier version of this project"
        )
    return ""


def _settings(record: PlanRecord) -> Json:
    """Return the settings that can change a score, by name."""
    images, model = record.config["images"], record.config["model"]
    return {
        "version": record.versions.get("spips"),
        **{f"images.{name}": value for name, value in images.items()},
        **{f"model.{name}": model.get(name) for name in ("precision", "lpips")},
    }


def _compare_versions(run: FinishedRun, record: PlanRecord) -> Iterator[str]:
    """Yield a note for each package of another version that scores or decodes."""
    for name in ("torch", "torchvision", "pillow"):
        now, before = record.versions.get(name), run.record.versions.get(name)
        if now != before:
            yield (
                f"note: {run.uri} was scored with {name} {before}, and new rows are with {now}: "
                "the last digits of scores may differ"
            )


def adopt_kernels(
    scorers: Scorers, earlier: EarlierRun | None, compile_: bool | None
) -> tuple[Scorers, EarlierRun | None]:
    """Let scorers score to the bit as those of an earlier run, if there is one.

    Args:
        scorers: as chosen for this run alone.
        earlier: where scores come from.
        compile_: the setting compute.compile.

    Returns:
        The scorers to start, and the earlier run; None for a run that is not required and whose
        scores these scorers cannot reach.

    Raises:
        ContractError: the run is required.
    """
    if earlier is None:
        return scorers, None
    on_gpus, compiled = kernels_of(earlier.run.record.attempts[0].scorers)
    adopted = replace(scorers, compile_kernels=compiled) if compile_ is None else scorers
    got = bool(adopted.gpus_per_scorer), adopted.compile_kernels
    if got == (on_gpus, compiled):
        return adopted, earlier
    if not earlier.is_required:
        return scorers, None
    expected, here = (
        f"{'GPUs' if gpus else 'CPUs'} with {'compiled' if is_compiled else 'eager'} kernels"
        for gpus, is_compiled in ((on_gpus, compiled), got)
    )
    raise ContractError(
        f"{SETTING}: expected scorers on {expected}, as {earlier.run.uri} had, got {here}, whose "
        "scores differ in the last digits; see compute.compile and compute.gpus_per_scorer"
    )


def find_contradictions(
    fs: AbstractFileSystem, files: Sequence[str], image_columns: Sequence[str], known: KnownScores
) -> list[str]:
    """Return a line if images have an earlier run's tags but not its bytes; they were scored.

    Args:
        fs: the run's store.
        files: paths of its new results.
        image_columns: names of the columns of images.
        known: the earlier run's scores.
    """
    rows = pyarrow.dataset.dataset(list(files), filesystem=arrow_filesystem(fs), format="parquet")
    if not set(image_columns) <= set(rows.schema.names):  # the manifest holds the images
        return []
    is_new = pc.field(REUSE_FIELD.name).is_null()
    found: set[str] = set()
    for batch in scan_by_file(rows, [*image_columns, *TAGS, *SHA256], is_new, ID_ROWS_PER_READ):
        for names in zip(image_columns, TAGS, SHA256, strict=True):
            uris, tags, sha256 = (batch[name].to_pylist() for name in names)
            numbers = known.find_tags(dict(zip(uris, tags, strict=True)))
            found |= {
                uri
                for uri, digest in zip(uris, sha256, strict=True)
                if digest and uri in numbers and digest != known.sha256_of(numbers[uri])
            }
    if not found:
        return []
    return [
        f"warning: {counted(len(found), 'image')} have other bytes than in the earlier run, "
        f"although size and times or entity tag are the same, for example {min(found)}; their rows "
        "were scored"
    ]
