"""Plan a run: check everything that can be checked before a row is scored."""

import importlib.metadata
import platform
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.records import RECORD_VERSION, ColumnsRecord, Json, ModelInfo, PlanRecord
from pipeline.runs.run import RunFolder, fingerprint, open_run_folder
from pipeline.runs.schema import Status, pass_through_schema
from pipeline.runs.storage import STORE_ERRORS, check_writable, describe, open_store
from pipeline.runs.summary import counted
from pipeline.runs.uris import is_relative, redact
from pipeline.scoring.config import NEWEST, ScoreManifestConfig
from pipeline.scoring.manifest.files import PARQUET_SUFFIXES
from pipeline.scoring.manifest.opening import Manifest, open_manifest
from pipeline.scoring.resources import PIXELS_PER_PAIR
from pipeline.scoring.reuse.attempts import Attempt, plan_again
from pipeline.scoring.reuse.earlier_run import EarlierRun, choose_earlier
from pipeline.scoring.stages.model import describe_model, load_model
from pipeline.scoring.stages.sample import Sample, load_sample
from spips_core import packaged_checkpoints
from spips_core.errors import FetchError, SpipsError

PACKAGES = ("spips", "ray", "torch", "torchvision", "pyarrow", "pillow", "fsspec", "s3fs")
RECORDED_PATHS = (
    ("manifest", "uri"), ("model", "checkpoint"), ("model", "backbone_weights"), ("output", "uri"),
    ("output", "delta_uri"),
    ("output", "reuse_from"),
)  # fmt: skip
"""Settings that plan.json and run.json give as absolute paths."""


@dataclass(frozen=True)
class Plan:
    """A run that may start: its settings are valid, its manifest is too, and its model works.

    Attributes:
        config: every setting, defaults included.
        manifest: the pairs.
        pass_through: schema of the manifest's columns in the results.
        model: the model that scores.
        run_id: name of the run, given or derived.
        folder: the run's folder.
        fingerprints: sha256 of manifest, model and scoring settings, by name, and the night if one
            is given. Two runs with the same fingerprints are the same run.
        sample: a few rows that were loaded as a test.
        attempt: its number and which rows it scores; no ids stand for all rows.
        earlier: the run whose scores are used again; None scores every row.
        notes: lines for people on the choice of `earlier`.
    """

    config: ScoreManifestConfig
    manifest: Manifest
    pass_through: pa.Schema
    model: ModelInfo
    run_id: str
    folder: RunFolder
    fingerprints: dict[str, str]
    sample: Sample
    attempt: Attempt
    earlier: EarlierRun | None = None
    notes: tuple[str, ...] = ()

    def is_done(self) -> bool:
        """Return whether the run is finished and this attempt has no rows to score again."""
        has_more = self.attempt.ids is not None and self.attempt.num_rows > 0
        return self.folder.state() == "finished" and not has_more

    def standard_pairs_per_row(self) -> float:
        """Return the work of a row in pairs of 256 px, of which a smaller pair is one, too."""
        return max(self.sample.pixels_per_pair or 0, PIXELS_PER_PAIR) / PIXELS_PER_PAIR

    def num_standard_pairs(self) -> float:
        """Return the work of the attempt's rows in pairs of 256 px."""
        return self.attempt.num_rows * self.standard_pairs_per_row()

    def scorers_may_load(self) -> bool:
        """Return whether scorers may load images themselves.

        Separate load workers are faster if images come from a store, because they wait for it while
        scorers score; and if scores of an earlier run are taken, which they do while scorers start.
        """
        return self.sample.is_local and self.earlier is None

    def check_sample(self) -> None:
        """Raise an error if no row of the sample could be loaded, which is hardly chance.

        A retry scores few of the manifest's rows, so the sample is not judged.

        Raises:
            FaultError: every image was unreadable, as when a store is away.
            ContractError: there were other reasons.
        """
        statuses = {status for status, _ in self.sample.outcomes}
        may_all_fail = self.config.failure.max_failed_fraction == 1
        if not statuses or Status.OK in statuses or self.attempt.ids is not None or may_all_fail:
            return
        problem = (
            f"manifest: expected images that can be loaded, got none in the sample of "
            f"{counted(len(self.sample.outcomes), 'row')} above; to score all the same, set "
            "failure.max_failed_fraction to 1"
        )
        raise FaultError(problem) if statuses == {Status.UNREADABLE} else ContractError(problem)

    def record(self) -> PlanRecord:
        """Return the content of plan.json."""
        reference, distorted = self.manifest.image_columns
        config = self.config.model_dump(mode="json")
        for section, name in RECORDED_PATHS:  # filters and audits run in other working folders
            uri = config[section][name]
            if uri and is_relative(uri) and uri not in (*packaged_checkpoints(), NEWEST):
                config[section][name] = open_store(uri)[1]
        config["manifest"]["version"] = self.manifest.version  # the current one may change
        packages = {package: importlib.metadata.version(package) for package in PACKAGES}
        return PlanRecord(
            version=RECORD_VERSION,
            run_id=self.run_id,
            night=self.fingerprints.get("night"),
            fingerprints=self.fingerprints,
            num_rows=self.manifest.num_rows,
            columns=ColumnsRecord(
                pair_id=self.manifest.pair_id_column, reference=reference, distorted=distorted
            ),
            model=self.model,
            config=_redacted(config),
            versions={"python": platform.python_version(), **packages},
        )


def make_plan(
    config: ScoreManifestConfig, *, retry_failed: bool = False, rescan: bool = False
) -> Plan:
    """Check manifest, model and output, and load a few rows as a test.

    Args:
        config: the run's settings.
        retry_failed: if the run is finished, plan to score its rows again whose status is one of
            RETRIED_STATUSES.
        rescan: if the run is finished, plan to score its rows again whose images have changed.

    Raises:
        ContractError: something is wrong; every problem is listed.
        FaultError: nothing is wrong, but a store is away.
    """
    manifest, model = _check_inputs(config)
    fingerprints = {
        "manifest": manifest.fingerprint,
        "model": model.digest,
        "scoring": fingerprint(_scoring_settings(config, manifest)),
    }
    if config.output.night:
        fingerprints["night"] = config.output.night.isoformat()
    run_id = config.output.run_id or fingerprint(dict(fingerprints))[:16]
    folder = open_run_folder(config.output.uri, run_id, fingerprints)
    pass_through = pass_through_schema(manifest.schema, manifest.image_columns)
    attempt = Attempt(1, manifest.id_hashes, None)
    is_finished = folder.state() == "finished"
    earlier = None
    if is_finished and (retry_failed or rescan):
        run = FinishedRun(folder, folder.read_run())
        attempt = plan_again(run, config.images, retry_failed=retry_failed, rescan=rescan)
        earlier = EarlierRun(run, is_required=False) if rescan else None
    is_to_score = not is_finished or attempt.ids is not None
    sample = Sample([], None, is_local=False)
    if is_to_score:
        sample = load_sample(manifest, config.images, pass_through)
    # Otherwise Arrow's freed buffers, in which it read the manifest, stay in the driver.
    pa.default_memory_pool().release_unused()
    plan = Plan(
        config, manifest, pass_through, model, run_id, folder, fingerprints, sample, attempt
    )
    notes: list[str] = []
    if is_to_score and earlier is None:
        earlier, notes = choose_earlier(config.output, run_id, plan.record())
    return replace(plan, earlier=earlier, notes=tuple(notes))


def _check_inputs(config: ScoreManifestConfig) -> tuple[Manifest, ModelInfo]:
    """Return manifest and model after checking them and the output's location, all at once."""
    problems: list[str] = []
    faults: list[str] = []
    manifest = model = None
    try:
        manifest = open_manifest(config.manifest)
    except ContractError as error:
        problems += error.problems
    except FaultError as error:
        faults.append(str(error))
    try:
        model = describe_model(load_model(config.model))
    except (FetchError, FaultError) as error:
        faults.append(f"model: {error}")
    except (SpipsError, ContractError) as error:
        problems.append(f"model: {redact(str(error))}")
    uri = redact(config.output.uri)
    try:
        check_writable(config.output.uri)
        if manifest is not None and manifest.covers(config.output.uri):
            problems.append(
                f"output.uri: expected a folder outside the manifest's, got {uri}, whose results "
                "would become part of the manifest"
            )
    except STORE_ERRORS as error:
        problems.append(f"output.uri: {uri} cannot be used: {describe(error)}")
    if problems:
        raise ContractError(*problems, *faults)
    if manifest is None or model is None:
        raise FaultError("; ".join(faults))
    return manifest, model


def _scoring_settings(config: ScoreManifestConfig, manifest: Manifest) -> Json:
    """Return the settings that can change a result."""
    return {
        "columns": [manifest.pair_id_column, *manifest.image_columns],
        "images": config.images.model_dump(mode="json"),
        "precision": config.model.precision,
        "lpips": config.model.lpips,
        "spips": importlib.metadata.version("spips"),
    }


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def describe_plan(plan: Plan) -> str:
    """Return the plan as a few lines for people."""
    model = plan.model
    outcomes = plan.sample.outcomes
    failed = [error for status, error in outcomes if status != Status.OK]
    trained = "trained" if model.trained else "NOT trained: scores order pairs only roughly"
    if model.dmos_scale is None:
        trained += "; no scale, so expected_dmos is null"
    lines = [
        f"manifest  {counted(plan.manifest.num_rows, 'pair')} in "
        f"{counted(len(plan.manifest.paths), 'file')} "
        f"at {redact(plan.config.manifest.uri)}",
        f"columns   {', '.join((plan.manifest.pair_id_column, *plan.manifest.image_columns))}",
        f"model     {redact(plan.config.model.checkpoint)} ({model.config['backbone']}, "
        f"{plan.config.model.precision}), digest {model.digest[:16]}, {trained}",
        f"output    {plan.folder.uri} ({plan.folder.state()})",
    ]
    if plan.manifest.source:
        lines.insert(1, plan.manifest.source)
    if plan.manifest.left_out:
        lines.insert(1, f"left out  {len(plan.manifest.left_out)} files beside them whose names do "
                     f"not end in {' or '.join(PARQUET_SUFFIXES)}, such as "
                     f"{redact(plan.manifest.left_out[0])}")  # fmt: skip
    if outcomes:
        num_loaded = len(outcomes) - len(failed)
        lines.append(f"sample    {num_loaded} of {len(outcomes)} rows could be loaded")
        lines += [f"          {error}" for error in failed]
    if plan.earlier is not None:
        lines.append(f"reuse     {plan.earlier.run.uri}")
    lines += plan.notes
    if plan.attempt.ids is not None:
        lines.append(
            f"retry     {plan.attempt.num_rows} {plan.attempt.of}, attempt {plan.attempt.number}"
        )
    return "\n".join(lines)
