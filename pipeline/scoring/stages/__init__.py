"""The stages load and score: callables from a block of rows to a block of rows."""
