"""Where the command `spips` starts: Ctrl-C ends it quietly while it still imports its packages."""

import signal


def main() -> int:
    """Run the process's command line; return the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jobs.cli import main as run  # takes half a second

    return run()
