"""How the tests run: what they may reach, in which order, and which of them side by side."""

import os
import signal
from typing import Any

import pytest

pytest_plugins = ["tests.s3", "tests.finished_runs", "tests.http", "tests.jobs.judged_sets"]
RAY_TESTS = (
    "tests/chaos/", "tests/examples/", "tests/pipeline/scoring/manifest/test_reading.py",
    *(f"tests/jobs/test_{name}.py"
      for name in ("audit_and_filter", "demo", "in_process", "processes", "reuse")),
)  # fmt: skip
"""Folders and files of tests that start Ray."""
LAST = tuple(f"tests/jobs/test_{name}.py" for name in ("train", "score_manifest", "secrets"))
"""More files of such tests, which run side by side once the tests without Ray are done."""
RAY_LIMITS = {
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
"""Ray's waits for its own processes, long enough for two clusters on two busy cores."""


def pytest_configure() -> None:
    """Keep a developer's credentials, profiles and endpoints out of tests and what they start.

    This runs before fsspec is imported, which reads its settings then. Whoever asks for S3 without
    `s3_store` is refused by this very machine, and AWS is never reached.
    """
    from tests.s3 import NOBODY_LISTENS, s3_environment  # once pytest has it as a plugin

    for name in list(os.environ):
        if name.startswith(("AWS_", "BOTO_", "FSSPEC_")):
            del os.environ[name]
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "FSSPEC_CONFIG_DIR"):
        os.environ[name] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ |= s3_environment(NOBODY_LISTENS, "nobody", "nothing")
    # What a script starts in its background ignores Ctrl-C; the jobs of tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ray's workers would stand back for tests that run beside theirs, until these time out.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tests report nothing to Ray's makers
    for name, value in RAY_LIMITS.items():
        os.environ.setdefault(name, value)
    # torch's threads wait for each other without spinning: where several processes share the CPUs,
    # spinning takes ten times the CPU time of the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def group_of(file: str) -> str:
    """Return which tests run one after the other with those of a file, in one process."""
    return "ray" if file.startswith(RAY_TESTS) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked s3 where no gateway is given, and order the groups.

    The tests that start Ray come first, the longest of their files last, when only these are left.
    """
    if "SPIPS_TEST_S3_ENDPOINT" not in os.environ:
        reason = "SPIPS_TEST_S3_ENDPOINT is not set; .ci/s3_gateway.sh starts a gateway"
        for item in items:
            if item.get_closest_marker("s3"):
                item.add_marker(pytest.mark.skip(reason=reason))
    order = {"ray": 0} | {file: 2 + number for number, file in enumerate(LAST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid.split("::")[0]), 1))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run most tests that start a Ray cluster, and the others the rest by files.

    Tests of Ray wait often, so other tests run well beside them. So do two clusters, but not three.
    """
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.split("::", maxsplit=1)[0])

    return GroupScheduling(config, log)
