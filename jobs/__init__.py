"""Entry points that a person runs."""
