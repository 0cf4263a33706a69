"""Scores that exist already: those of an earlier run, and of earlier attempts of a finished one."""
