"""Score every image pair of a manifest and publish scores, sub-scores and statuses as Parquet.

exit codes:
  0    done, now or in an earlier run of the same command
  1    fault: mend the cause and run the same command again; it resumes
  2    the config or the manifest is wrong; nothing was scored
  3    more rows failed than failure.max_failed_fraction allows; the results are published
  130  interrupted; the same command goes on where it was
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence

import yaml

from jobs.config import load_config, make_parser
from jobs.exit_codes import DONE, TOO_MANY_FAILED, exit_code_of
from pipeline.runs.records import RunRecord
from pipeline.scoring.config import ScoreManifestConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = make_parser("score_manifest.py", __doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan, score nothing"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="if the run is finished, score its rows again that are missing, forbidden, unreadable "
        "or decode_error, beside the old results; readers take the new ones",
    )

    def work() -> int:
        config, options = load_config(ScoreManifestConfig, parser, arguments)
        return _score(config, dry_run=options.dry_run, retry_failed=options.retry_failed)

    return exit_code_of(work)


def _score(config: ScoreManifestConfig, *, dry_run: bool, retry_failed: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as on Ctrl-C: schedulers stop so
    # So long Ray Data keeps a share of the cluster for a process that was killed, and another one
    # that goes on with its run waits for it; Ray reads this, 180 s otherwise, when it is imported.
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "30")
    # torch and ray take seconds to import; --help and a wrong config need not wait for them. No
    # garbage is looked for among what they make, now or at the end: each took most of a second.
    gc.disable()
    import ray

    from pipeline.scoring.graph import run
    from pipeline.scoring.lock import hold
    from pipeline.scoring.plan import describe_plan, make_plan
    from pipeline.scoring.resources import choose_scorers

    gc.freeze()
    gc.enable()
    plan = make_plan(config, retry_failed=retry_failed)
    sys.stdout.write(describe_plan(plan) + "\n")
    if dry_run:
        resolved = yaml.safe_dump(plan.record().config, sort_keys=False)
        sys.stdout.write(f"\n{resolved}\ndry run: nothing was scored\n")
        return DONE
    if plan.folder.state() == "finished" and (
        plan.attempt.ids is None or not plan.attempt.num_rows
    ):
        nothing = ", and no row failed that may be retried" if retry_failed else ""
        sys.stdout.write(f"this run is finished{nothing}: {plan.folder.uri}\n")
        return _report(config, plan.folder.read_run())
    with hold(plan.folder) as lock:
        start_ray()
        found = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in found if node["Alive"]]
        scorers = choose_scorers(config.compute, nodes, plan.attempt.num_rows)
        passes = "compiled" if scorers.compile_kernels else "not compiled"
        sys.stdout.write(
            f"scorers   {scorers.num_scorers} scoring, {scorers.gpus_per_scorer:g} GPUs and "
            f"{scorers.threads_per_scorer} threads each, "
            f"passes over pixels {passes}\n"
        )
        record = run(plan, scorers, lock)
    sys.stdout.write(f"results   {plan.folder.uri}\n")
    return _report(config, record)


def start_ray(*, dashboard: bool = False) -> None:
    """Join the cluster that a submitted job runs on, or start Ray on this machine.

    Args:
        dashboard: start Ray's own web server too, on loopback; Ray Train asks it for states.
    """
    import ray

    if "RAY_ADDRESS" in os.environ:  # as in a submitted job
        ray.init(ignore_reinit_error=True)
    else:  # "local": without it, what a dead cluster left behind would be waited for
        ray.init("local", ignore_reinit_error=True, include_dashboard=dashboard)
    # Again, since Ray has its own handler, which would abort the process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _report(config: ScoreManifestConfig, record: RunRecord) -> int:
    """Print the counts and return the exit code, for a run just finished or long finished."""
    for status, count in record.counts_by_status.items():
        if count:
            sys.stdout.write(f"{status:<14}{count:>10}\n")
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
