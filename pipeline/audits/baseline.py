"""The runs that an audit reads: the run itself and its baseline."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.records import RunDescription
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import (
    FinishedRun,
    check_outside_runs,
    find_runs,
    is_run,
    open_newest_run,
    open_run,
)
from pipeline.runs.records import Record
from pipeline.runs.storage import STORE_ERRORS, check_writable, describe, open_store
from pipeline.runs.summary import counted
from pipeline.runs.uris import redact


class Runs(NamedTuple):
    """The runs of an audit.

    Attributes:
        run: the audited run.
        baseline: the runs to compare with, oldest first.
        notes: lines for people.
        nights: the runs from which gates learn the noise, oldest first.
    """

    run: FinishedRun
    baseline: list[FinishedRun]
    notes: list[str]
    nights: list[FinishedRun]


def open_runs(config: AuditScoresConfig, *, allow_different_models: bool) -> Runs:
    """Open the run, its baseline, and the nights from which gates learn the noise.

    Raises:
        ContractError: a run is missing or unfinished, a different model scored the baseline, or
            the output cannot be written or is inside a run's folder. The error lists every problem.
    """
    problems: list[str] = []
    found = None
    try:
        check_writable(config.output.uri)
        check_outside_runs(config.output.uri)
    except ContractError as error:
        problems += error.problems
    except STORE_ERRORS as error:
        uri = redact(config.output.uri)
        problems.append(f"output.uri: {uri} cannot be used: {describe(error)}")
    try:
        run = open_newest_run(config.scores.uri)
        found = Runs(run, [], list(run.notes), [])
    except ContractError as error:
        problems += [f"scores.uri: {problem}" for problem in error.problems]
    try:
        if found is not None and config.baseline.uri is not None:
            others = _open_baseline(config, found.run, any_model=allow_different_models)
            notes = list(dict.fromkeys([*found.notes, *others.notes]))  # of the same folder, maybe
            found = others._replace(notes=notes)
    except ContractError as error:
        problems += [f"baseline.uri: {problem}" for problem in error.problems]
    if problems or found is None:
        raise ContractError(*problems)
    return found


def _open_baseline(config: AuditScoresConfig, run: FinishedRun, *, any_model: bool) -> Runs:
    uri = str(config.baseline.uri)
    if is_run(uri):
        only = open_run(uri)
        if only.folder == run.folder:
            raise ContractError(
                f"baseline.uri: expected another run than the audited one, got {uri}"
            )
        if only.model_digest != run.model_digest and not any_model:
            raise ContractError(
                f"expected a run of the same model (digest {run.model_digest[:16]}), got "
                f"{only.model_digest[:16]} at {only.uri}; "
                "--allow-different-models compares them"
            )
        return Runs(run, [only], [], [only])
    has_noise = any(gate.is_noise for gate in config.gates)
    num_nights = config.noise.nights if has_noise else 0
    found, notes = find_runs(uri)
    chosen: list[FinishedRun] = []
    for one in reversed(found):
        if one.place >= run.place or len(chosen) == max(config.baseline.last_runs, num_nights):
            continue
        reason = _why_not(one, run, config, any_model=any_model)
        if reason:
            notes.append(f"run {one.run_id} was skipped: {reason}")
        else:
            chosen.append(one)
    if not chosen:
        notes.append(f"there is no earlier run to compare with at {redact(uri)}")
    nights, more_notes = _choose_nights(config, run, chosen[:num_nights])
    baseline = chosen[: config.baseline.last_runs]
    return Runs(run, baseline[::-1], [*notes, *more_notes], nights[::-1])


def _choose_nights(
    config: AuditScoresConfig, run: FinishedRun, nights: Sequence[FinishedRun]
) -> tuple[list[FinishedRun], list[str]]:
    """Return the nights that teach gates the noise, and notes for people."""
    alike, notes = [one for one in nights if has_settings_of(one, run)], []
    if different := len(nights) - len(alike):
        notes.append(f"gates of noise leave out {counted(different, 'night')} of other image "
                     "settings, precision or version")  # fmt: skip
    if nights and config.baseline.audits_uri is None:
        notes.append("gates of noise learn from nights that broke a gate, too, unless "
                     "baseline.audits_uri says where the audits are")  # fmt: skip
    return alike, notes


def has_settings_of(one: FinishedRun, run: FinishedRun) -> bool:
    """Return whether two runs have the same settings of all that can change a score."""
    mine, others = one.record.fingerprints, run.record.fingerprints
    return mine.get("scoring") == others.get("scoring")


def _why_not(
    one: FinishedRun, run: FinishedRun, config: AuditScoresConfig, *, any_model: bool
) -> str:
    """Return why a run cannot be part of the baseline, or ""."""
    if one.model_digest != run.model_digest and not any_model:
        return "a different model scored it"
    if config.baseline.audits_uri is not None and one.run_id not in config.baseline.accept:
        broken = _count_broken(config.baseline.audits_uri, one)
        if broken:
            return (f"its audit broke {counted(broken, 'gate')}; if the run is good, name it in "
                    "baseline.accept")  # fmt: skip
    try:
        columns = one.pass_through_columns
    except (*STORE_ERRORS, pa.ArrowException) as error:
        return f"its results cannot be read: {describe(error)}"
    missing = [name for name in config.group_by if name not in columns]
    return f"it has no column {missing[0]!r}" if missing else ""


class _JudgedGate(Record):
    state: str


class _AuditedRun(Record):
    run_id: str
    started_at: str


class _Verdicts(Record):
    """What any version of audit.json has."""

    run: _AuditedRun
    gates: tuple[_JudgedGate, ...]


def _count_broken(audits_uri: str, run: FinishedRun) -> int:
    """Return how many gates a run's audit broke; 0 if it has none.

    Raises:
        ContractError: the audit cannot be read.
    """
    uri = f"{audits_uri.rstrip('/')}/{run.run_id}/audit.json"
    fs, path = open_store(uri)
    try:
        found = _Verdicts.model_validate_json(fs.cat_file(path))
    except FileNotFoundError:
        return 0
    except (*STORE_ERRORS, ValidationError) as error:
        got = "something else" if isinstance(error, ValidationError) else describe(error)
        raise ContractError(f"expected what an audit writes in baseline.audits_uri at "
                            f"{redact(uri)}, got {got}") from error  # fmt: skip
    if (found.run.run_id, found.run.started_at) != (run.run_id, run.place[1]):
        return 0  # of an earlier run of this name
    return sum(gate.state == "broken" for gate in found.gates)


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
