"""What Ray's metrics say while a run goes on: rows by status. Their rate is pairs per second."""

import pyarrow as pa


class RowCounter:
    """Counts the rows that a scorer scores; Prometheus reads ray_spips_scored_rows_total."""

    def __init__(self, run_id: str) -> None:
        """Make the counter, in a process of Ray."""
        from ray.util.metrics import Counter  # Ray takes seconds; who scores without it waits not

        self._counter = Counter(
            "spips_scored_rows", "Rows that were scored, by status", ("run_id", "status")
        ).set_default_tags({"run_id": run_id})

    def add(self, rows: pa.Table) -> None:
        """Count scored rows; this takes microseconds per block."""
        for entry in rows.column("status").value_counts().to_pylist():
            self._counter.inc(entry["counts"], tags={"status": entry["values"]})
