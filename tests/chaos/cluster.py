"""A Ray cluster of several nodes on this machine, whose processes can be killed."""

import os
import random
import signal
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

STAGES = {
    "scorer": "(PairScorer)", "loading scorer": "(LoadingPairScorer)", "load worker": "PairLoader",
}  # fmt: skip
"""What the titles of processes of a kind hold."""
NODE = {"num_cpus": 2, "object_store_memory": 150_000_000, "include_log_monitor": False}


class Machines:
    """A head node, and worker nodes that come and go.

    Attributes:
        address: for RAY_ADDRESS.
        num_cpus: of all nodes.
    """

    def __init__(self, num_workers: int = 2) -> None:
        head = NODE | {"num_cpus": 1, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
        self.address: str = self._cluster.address
        self.num_cpus = head["num_cpus"] + num_workers * NODE["num_cpus"]
        self._workers: list[Any] = []
        for _ in range(num_workers):
            self.add_node()

    def add_node(self) -> None:
        self._workers.append(self._cluster.add_node(**NODE))

    def kill_node(self, choice: random.Random) -> bool:
        """Kill a worker node with all that runs on it, and add another."""
        node = choice.choice(self._workers)
        processes = descendants(_raylet(node))
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in processes:  # some outlive their node for seconds
            _kill(process)
        self.add_node()
        return True

    def kill_process(self, kind: str, choice: random.Random) -> bool:
        """Kill a process that works for a stage; False when there is none now."""
        nodes = [self._cluster.head_node, *self._workers]
        found = [
            process
            for node in nodes
            for process in descendants(_raylet(node))
            if STAGES[kind] in title(process)
        ]
        return bool(found) and _kill(choice.choice(found))

    def stop(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)


def title(process: int) -> str:
    """Return a process's command line, or what Ray calls it."""
    try:
        written = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return written.replace(b"\0", b" ").decode().strip()


def descendants(process: int) -> list[int]:
    """Return the process's children, and theirs."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, queue = [], [process]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
