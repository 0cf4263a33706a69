"""Make a manifest, which `spips score` reads, of folders of images or of a list or data set.

Of folders, files are a pair if their paths are equal without suffix, or as --match says. With
--frames they are videos, or two video files, of which frames are sampled. A list or
data set is .csv, .tsv, .jsonl, .ndjson, Parquet, tars, or a folder of Hugging Face's save_to_disk.

for example:
  spips manifest targets/ model_a/ model_b/ -o pairs.parquet
  spips manifest pairs.csv -o pairs.parquet
  spips manifest target.mp4 model_a=output.mp4 -o pairs.parquet --frames 1

exit codes:
  0    done
  1    fault, such as a full disk: fix the cause and run the same command again
  2    the settings or the source are wrong; nothing was written
  130  interrupted; nothing was written
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from jobs.run_job import DONE, make_parser, run_job, say
from pipeline.manifests.config import MakeManifestConfig
from pipeline.runs.uris import one_line

SHORT_OPTIONS = {
    "--match": ("folders.match", "REGEX"),
    "--frames": ("folders.frames_every_s", "SECONDS"),
    "--reference-column": ("source.reference_column", "NAME"),
    "--distorted-column": ("source.distorted_column", "NAME"),
    "--pair-id-column": ("source.pair_id_column", "NAME"),
    "--model-column": ("source.model_column", "NAME"),
}
"""Shorter names of settings, and of their values."""


class _Sources(argparse.Action):
    """Stores one positional argument as source.uri, several as folders."""

    def __call__(
        self, _parser: object, namespace: argparse.Namespace, values: Any, _option: object = None
    ) -> None:
        """Store the arguments; a list as JSON, because commas would split other texts."""
        references, *candidates = values
        if candidates:
            setattr(namespace, "folders.references", references)
            setattr(namespace, "folders.candidates", json.dumps(candidates))
        else:
            setattr(namespace, "source.uri", references)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips manifest", __doc__)
    parser.usage = "%(prog)s SOURCE [SOURCE ...]"
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}  # does not override a file's settings
    parser.add_argument(
        "sources", nargs="*", action=_Sources, metavar="SOURCE", **unset,
        help="a list or data set; or the folder of the references, and folders of images to judge, "
        "each as FOLDER or NAME=FOLDER",
    )  # fmt: skip
    for option, (setting, value) in SHORT_OPTIONS.items():
        parser.add_argument(
            option, dest=setting, metavar=value, help=f"same as --{setting}", **unset
        )
    parser.add_argument(
        "--overwrite", dest="output.overwrite", action="store_const", const="true", **unset,
        help="same as --output.overwrite=true",
    )  # fmt: skip
    return run_job(_make, MakeManifestConfig, parser, arguments, interrupted="nothing was written")


def _make(config: MakeManifestConfig) -> int:
    # pandas and the stores' drivers take a second to import; --help need not wait for them.
    from pipeline.manifests.make import make_manifest

    summary = make_manifest(config)
    for note in summary.notes:
        say(f"note: {note}")
    for model, num_rows in summary.rows_by_model.items():
        say(f"{one_line(model):<24}{num_rows:>12,}")
    say(f"{'rows':<24}{summary.num_rows:>12,}")
    say(f"wrote {summary.uri}")
    scores = f"{summary.uri.rpartition('/')[0]}/scores"
    say(f"next  spips score {shlex.quote(summary.uri)} -o {shlex.quote(scores)}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
