"""A run: its folder, records, columns and storage."""
