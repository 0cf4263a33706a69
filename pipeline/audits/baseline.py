"""The runs that an audit reads: the run itself and its baseline."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.records import RunDescription
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun, find_runs, is_run, open_newest_run, open_run
from pipeline.runs.storage import STORE_ERRORS, check_writable, describe
from pipeline.runs.uris import redact


def open_runs(
    config: AuditScoresConfig, *, allow_different_models: bool
) -> tuple[FinishedRun, list[FinishedRun], list[str]]:
    """Open the run and its baseline.

    Returns:
        The run; the runs of the baseline, oldest first; and notes for people.

    Raises:
        ContractError: a run is missing or unfinished, a different model scored the baseline, or
            the output cannot be written. The error lists every problem.
    """
    problems: list[str] = []
    baseline: list[FinishedRun] = []
    notes: list[str] = []
    run = None
    try:
        check_writable(config.output.uri)
    except STORE_ERRORS as error:
        uri = redact(config.output.uri)
        problems.append(f"output.uri: {uri} cannot be used: {describe(error)}")
    try:
        run = open_newest_run(config.scores.uri)
        notes += run.notes
    except ContractError as error:
        problems += [f"scores.uri: {problem}" for problem in error.problems]
    try:
        if run is not None and config.baseline.uri is not None:
            baseline, others = _open_baseline(config, run, any_model=allow_different_models)
            notes = list(dict.fromkeys([*notes, *others]))  # both folders can be the same
    except ContractError as error:
        problems += [f"baseline.uri: {problem}" for problem in error.problems]
    if problems or run is None:
        raise ContractError(*problems)
    return run, baseline, notes


def _open_baseline(
    config: AuditScoresConfig, run: FinishedRun, *, any_model: bool
) -> tuple[list[FinishedRun], list[str]]:
    uri = str(config.baseline.uri)
    if is_run(uri):
        baseline = open_run(uri)
        if baseline.folder == run.folder:
            raise ContractError(
                f"baseline.uri: expected another run than the audited one, got {uri}"
            )
        if baseline.model_digest != run.model_digest and not any_model:
            raise ContractError(
                f"expected a run of the same model (digest {run.model_digest[:16]}), got "
                f"{baseline.model_digest[:16]} at {baseline.uri}; "
                "--allow-different-models compares them"
            )
        return [baseline], []
    found, notes = find_runs(uri)
    chosen: list[FinishedRun] = []
    for one in reversed(found):
        if one.place >= run.place or len(chosen) == config.baseline.last_runs:
            continue
        reason = _why_not(one, run, config.group_by, any_model=any_model)
        if reason:
            notes.append(f"run {one.run_id} was skipped: {reason}")
        else:
            chosen.append(one)
    if not chosen:
        notes.append(f"there is no earlier run to compare with at {redact(uri)}")
    return chosen[::-1], notes


def _why_not(
    one: FinishedRun, run: FinishedRun, group_by: Sequence[str], *, any_model: bool
) -> str:
    """Return why a run cannot be part of the baseline, or ""."""
    if one.model_digest != run.model_digest and not any_model:
        return "a different model scored it"
    try:
        columns = one.pass_through_columns
    except (*STORE_ERRORS, pa.ArrowException) as error:
        return f"its results cannot be read: {describe(error)}"
    missing = [name for name in group_by if name not in columns]
    return f"it has no column {missing[0]!r}" if missing else ""


def describe_run(run: FinishedRun) -> RunDescription:
    """Return what audit.json says about a run."""
    record, (night, started_at) = run.record, run.place
    return RunDescription(
        uri=run.uri, run_id=run.run_id, night=night, started_at=started_at,
        finished_at=record.finished_at, rows=record.num_rows,
        failed_fraction=record.failed_fraction, reused_rows=sum(record.reused_rows.values()),
        model_digest=run.model_digest, model=str(record.config["model"]["checkpoint"]),
        is_trained=record.model.trained,
    )  # fmt: skip
