"""Score every image pair of a manifest and publish scores, sub-scores and statuses as Parquet.

for example:
  spips score pairs.parquet -o scores/

environment variables:
  SPIPS_PUSH_GATEWAY  URL of a Prometheus push gateway, which gets the figures of the finished run

exit codes:
  0    done, now or by an earlier run of the same command
  1    fault: fix the cause and run the same command again; it resumes
  2    the config or the manifest is wrong; nothing was scored
  3    the fraction of failed rows exceeds failure.max_failed_fraction; the results are published
  130  interrupted; the same command resumes
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import yaml

from jobs.run_job import (
    DONE,
    TOO_MANY_FAILED,
    VERBOSE,
    check_cluster,
    make_parser,
    run_job,
    say,
    say_if_slow,
    start_ray,
)
from pipeline.runs.records import RunRecord
from pipeline.scoring.config import ScoreManifestConfig

if TYPE_CHECKING:
    from pipeline.runs.finished import FinishedRun
    from pipeline.scoring.plan import Plan

FLAGS = {
    "dry_run": "check everything, print the plan, score nothing",
    "retry_failed": "if the run is finished, score its missing, forbidden, unreadable, "
    "decode_error, crashed and timed_out rows again; the new results replace the old ones, which "
    "are kept aside",
    "rescan": "if the run is finished, look at the images of all rows, and score those rows again "
    "whose images have changed, as --retry-failed does with failed ones",
    **VERBOSE,
}


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code.

    Args:
        arguments: the command line.
        show: called with the path of the run's folder, in its store, once the run is finished.
    """
    parser = make_parser("spips score", __doc__)
    work = partial(_score, show=show)
    return run_job(
        work,
        ScoreManifestConfig,
        parser,
        arguments,
        positional=("MANIFEST", "manifest.uri"),
        flags=FLAGS,
    )


def _score(
    config: ScoreManifestConfig, *, dry_run: bool, retry_failed: bool, rescan: bool, verbose: bool,
    show: Callable[[str], None] | None,
) -> int:  # fmt: skip
    # torch and ray take seconds to import; --help and a wrong config need not wait for them.
    from pipeline.runs.finished import FinishedRun
    from pipeline.runs.metrics import check_gateway
    from pipeline.runs.summary import summarise
    from pipeline.scoring.delta_output import check_delta, write_delta
    from pipeline.scoring.plan import describe_plan, make_plan
    from pipeline.scoring.reuse.rerun import advise

    if gateway := os.environ.get("SPIPS_PUSH_GATEWAY"):
        check_gateway(gateway)
    with say_if_slow("note: still checking the manifest and a few of its images"):
        plan = make_plan(config, retry_failed=retry_failed, rescan=rescan)
    if config.output.delta_uri:
        check_delta(config.output.delta_uri, plan.pass_through)
    say(describe_plan(plan))
    again = " and ".join(["--retry-failed"] * retry_failed + ["--rescan"] * rescan)
    if again and plan.attempt.ids is None:
        say(f"note: this run is not finished: {again} has no effect, every row is scored once")
    if dry_run:
        _end_dry_run(plan)
        return DONE
    if plan.is_done():
        nothing = ", and no failed row can be retried" if retry_failed else ""
        nothing += ", and no image has changed" if rescan else ""
        say(f"this run is finished{nothing}: {plan.folder.uri}")
        run = FinishedRun(plan.folder, plan.folder.read_run())
        for line in advise(run, config.images):
            sys.stderr.write(f"{line}\n")
    else:
        plan.check_sample()
        run = FinishedRun(plan.folder, _run(config, plan, verbose=verbose))
    if config.output.delta_uri:
        say(write_delta(run, config.output.delta_uri))
    for line in summarise(run):
        say(line)
    _push(run, gateway)
    if show is not None:
        show(plan.folder.path)
    return _judge_failed(config, run.record)


def _end_dry_run(plan: "Plan") -> None:
    """Say who would score a plan's rows, and print all settings; Ray is not started."""
    from pipeline.scoring.in_process import fits_this_process, no_scorers
    from pipeline.scoring.resources import describe_scorers

    if not plan.is_done():
        is_here = fits_this_process(plan, has_died=plan.folder.is_locked())
        here = describe_scorers(no_scorers(plan.config.compute))
        number = plan.config.compute.scorers
        how_many = f"{number} of them" if number else "how many depends on the cluster"
        say(here if is_here else f"scorers   processes of Ray; {how_many}")
    settings = yaml.safe_dump(plan.record().config, sort_keys=False)
    say(f"\n{settings}\ndry run: nothing was scored")


def _run(config: ScoreManifestConfig, plan: "Plan", *, verbose: bool) -> RunRecord:
    """Score what a plan says, and return the content of run.json."""
    from pipeline.runs.lock import lock_run
    from pipeline.scoring.in_process import InProcess, fits_this_process, no_scorers
    from pipeline.scoring.publish import ScoreFunction, find_published, score_and_publish
    from pipeline.scoring.resources import choose_scorers, describe_scorers
    from pipeline.scoring.reuse.earlier_run import adopt_kernels

    check_cluster()  # before the lock makes the run's folder
    with lock_run(plan.folder) as lock:
        if record := find_published(plan):
            return record
        if lock.succeeds_dead:
            say("note: a process that worked on this run has died; it continues on Ray")
        is_here = fits_this_process(plan, has_died=lock.succeeds_dead)
        scorers = no_scorers(config.compute)
        if not is_here:
            nodes = start_ray(verbose=verbose)
            scorers = choose_scorers(
                config.compute,
                nodes,
                plan.num_standard_pairs(),
                may_load=plan.scorers_may_load(),
            )
        scorers, earlier = adopt_kernels(scorers, plan.earlier, config.compute.compile)
        if earlier is not plan.earlier:
            say("note: every row is scored: the run to reuse had other devices or kernels")
        plan = replace(plan, earlier=earlier)
        say(describe_scorers(scorers))
        if is_here:
            score: ScoreFunction = InProcess(plan, scorers)
        else:
            from pipeline.scoring.graph import run_graph as score  # imports Ray
        record = score_and_publish(plan, scorers, lock, score)
    say(f"results   {plan.folder.uri}")
    return record


def _push(run: "FinishedRun", gateway: str | None) -> None:
    """Push the figures of a run to a gateway, if any; warn if it does not take them."""
    if not gateway:
        return
    from pipeline.runs.metrics import push_metrics, to_metrics
    from pipeline.runs.summary import score_figures

    content = to_metrics(run.record, score_figures(run.scores))
    if problem := push_metrics(gateway, "spips_score", content):
        sys.stderr.write(f"warning: {problem}\n")  # the results are published


def _judge_failed(config: ScoreManifestConfig, record: RunRecord) -> int:
    """Return the exit code of a finished run, and say if too many of its rows failed."""
    failed, allowed = record.failed_fraction, config.failure.max_failed_fraction
    if failed > allowed:
        sys.stderr.write(
            f"alarm: expected at most {allowed:.4%} failed rows "
            f"(failure.max_failed_fraction), got {failed:.4%}\n"
        )
        return TOO_MANY_FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
