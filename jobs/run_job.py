"""What all jobs share: command line, settings, signals, Ray's start, errors and exit codes."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pyarrow import ArrowException
from pydantic import BaseModel

from jobs.config import find_examples, load_config
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.storage import STORE_ERRORS, describe

SLOW_S = 10
"""Time after which a job says that it waits."""
CLUSTER_ANSWERS_S = 10
"""Longest wait for a connection to a cluster."""
ENVIRONMENT = {
    # Otherwise Ray reports each run's stages, settings and times to its makers.
    "RAY_USAGE_STATS_ENABLED": "0",
    # torch's threads wait for each other without spinning. Where other processes share the CPUs,
    # spinning costs more CPU time than an audit's many small calls.
    "OMP_WAIT_POLICY": "passive",
    # Ray's workers otherwise stand back for every other program (nice 15): beside one that keeps
    # one of two cores busy, a run took 1.9 times as long.
    "RAY_worker_niceness": "0",
    # Otherwise SIGTERM while Ray starts waits for it to move the work of its only node elsewhere.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # If a run is killed, its request for CPUs stays with Ray Data's autoscaler and blocks the
    # process that resumes the run, until the request expires: after 180 s, unless this says less.
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "30",
}
"""Variables that torch and Ray read when they are imported; a user's own values count."""

VERBOSE = {"verbose": "also show what Ray reports"}
"""The flag of jobs that start Ray, for `run_job`."""
DONE, FAULT, WRONG, TOO_MANY_FAILED, GATE_BROKEN, INTERRUPTED = 0, 1, 2, 3, 4, 130


def run_job(
    work: Callable[..., int],
    config_class: type[BaseModel],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    *,
    positional: tuple[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    interrupted: str = "run the same command again to go on",
) -> int:
    """Load a job's settings and do its work.

    Args:
        work: function of the settings, and of each flag as a keyword argument; returns an exit
            code.
        config_class: the job's settings.
        parser: what `make_parser` returns.
        arguments: command line; None takes the process's.
        positional: name in the help, and setting, of the argument without an option's name.
        flags: help text of the job's own flags, by keyword argument (dry_run is --dry-run).
        interrupted: message after Ctrl-C or SIGTERM.

    Returns:
        The exit code.
    """
    names = {name: f"--{name.replace('_', '-')}" for name in flags or {}}
    for name, text in (flags or {}).items():
        parser.add_argument(names[name], action="store_true", help=text)

    def load_and_work() -> int:
        config, options = load_config(config_class, parser, arguments, positional)
        return work(config, **{name: getattr(options, name) for name in names})

    prepare_process()
    return exit_code_of(load_and_work, interrupted=interrupted)


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a command's parser, without options."""
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog=f"examples of settings files: {find_examples()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_code_of(
    work: Callable[[], int], *, interrupted: str = "run the same command again to go on"
) -> int:
    """Do a job's work, and print each problem as one line instead of a stack trace.

    Returns:
        The exit code of the work, or of its error.
    """
    try:
        return work()
    except ContractError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG
    except FaultError as error:
        sys.stderr.write(f"fault: {error}\n")
        return FAULT
    except (
        *STORE_ERRORS,
        ArrowException,
    ) as error:  # a lost or damaged file, a failed store
        sys.stderr.write(f"fault: {describe(error)}\n")
        return FAULT
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {interrupted}\n")
        return INTERRUPTED


def prepare_process() -> None:
    """Set ENVIRONMENT, and raise KeyboardInterrupt on SIGTERM, with which schedulers stop jobs."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see jobs/start.py
        signal.signal(signal.SIGINT, signal.default_int_handler)


def start_ray(*, verbose: bool, dashboard: bool = False) -> list[dict[str, float]]:
    """Join the cluster that a submitted job runs on, or start Ray on this machine.

    Args:
        verbose: show what Ray reports, not only its warnings.
        dashboard: on this machine, also start Ray's web server, which Ray Train needs.

    Returns:
        The resources of each living node, such as "CPU" and "GPU".

    Raises:
        FaultError: Ray's processes do not start, or no cluster answers.
    """
    import ray.data  # takes seconds; only then its logger has handlers

    level = logging.INFO if verbose else logging.WARNING
    for handler in logging.getLogger("ray.data").handlers:  # its own; its log files stay complete
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(level)
            if not verbose:  # the job says in one line what failed
                handler.addFilter(_has_no_stack_trace)
    if not verbose:  # else it warns that its progress bars are off, in place of which stands ours
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        # That tokens guard the cluster is no news; that none do would be.
        tokens = logging.getLogger("ray._private.authentication.authentication_token_setup")
        tokens.addFilter(lambda record: "is enabled" not in str(record.msg))
    with _signals_noted():
        if os.environ.get("RAY_ADDRESS"):  # set in submitted jobs
            check_cluster()
            ray.init(ignore_reinit_error=True, logging_level=level)
        else:  # without "local", Ray would wait for a dead cluster that left its address behind
            try:
                ray.init(
                    "local",
                    ignore_reinit_error=True,
                    include_dashboard=dashboard,
                    logging_level=level,
                )
            except Exception as error:
                # Ray raises a bare one if its processes take over 30 s, as on a busy machine.
                if type(error) is not Exception:
                    raise
                raise FaultError(
                    f"expected Ray to start on this machine, got: {error} Run the same command "
                    "again when fewer other programs run"
                ) from error
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _has_no_stack_trace(record: logging.LogRecord) -> bool:
    """Return whether to show a line of Ray's: no stack trace, nor a word on the one below it."""
    return not record.exc_info and record.name != "ray.data.exceptions"


@contextmanager
def _signals_noted() -> Iterator[None]:
    """Note the first Ctrl-C or SIGTERM while Ray starts, and raise KeyboardInterrupt afterwards.

    Ray starts processes. Where Python forks, it swallows what a handler of signals raises, as Ray's
    own does, and keeps the lock of logging, which the job would then wait for at its end.
    """
    from ray._private import utils

    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt


def check_cluster() -> None:
    """Check that the cluster of RAY_ADDRESS answers; Ray would wait minutes for one that does not.

    Raises:
        FaultError: nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address.rpartition("://")[2])
        if found is None:  # "local"
            return
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CLUSTER_ANSWERS_S).close()
    except (OSError, ValueError) as error:
        raise FaultError(
            f"RAY_ADDRESS: expected a Ray cluster at {address}, got {describe(error)}"
        ) from error


@contextmanager
def say_if_slow(text: str) -> Iterator[None]:
    """Print a line to stderr if the block takes longer than SLOW_S."""
    timer = threading.Timer(SLOW_S, sys.stderr.write, [f"{text}\n"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say(text: str) -> None:
    """Print a line at once; go on without printing if nobody reads it any more."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # `| head -1`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until this process ends
