"""Figures of runs with their intervals, computed with DuckDB."""
