"""The traditional quality maps of Eqs. (1)-(3), one metric a file."""
