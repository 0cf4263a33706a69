"""How the benchmark measures: side by side, in turns, the median of several."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key")


@dataclass
class Table:
    """One part's figures.

    Attributes:
        title: what was measured.
        columns: their names.
        rows: cells, text or numbers.
        notes: lines below the table: what was held equal, and how.
    """

    title: str
    columns: list[str]
    rows: list[list[str | float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|---" * len(self.columns) + "|")
        for row in self.rows:
            cells = [cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", *self.notes]).rstrip() + "\n"


def medians(functions: Mapping[Key, Callable[[], object]], repeats: int) -> dict[Key, float]:
    """Return the median seconds of each function, called in turns after one call each."""
    for function in functions.values():
        function()
    taken: dict[Key, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start_s = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(times) for name, times in taken.items()}


def machine() -> dict[str, str]:
    """Describe this machine and the libraries."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "?")
    wide = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags]
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{model}, {os.cpu_count()} cores, {' '.join(wide)}",
        "memory": f"{memory:.0f} GiB",
        "GPU": gpu,
        "software": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "pyarrow", "pillow")),
    }
