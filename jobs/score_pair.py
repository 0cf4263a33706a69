"""Score one image pair; print its scores, and draw where each stream sees a difference.

for example:
  spips pair target.png output.png --map differences.png

exit codes:
  0    done
  1    fault: an image's store fails, the trunk's weights cannot be fetched, or the heat maps cannot
       be written
  2    an image, the checkpoint or the trunk's weights are missing or wrong
  130  interrupted
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.completion import complete_options
from jobs.run_job import DONE, exit_code_of, make_parser, prepare_process, say
from pipeline.runs.errors import ContractError, FaultError, did_you_mean
from pipeline.runs.schema import Status
from pipeline.runs.uris import is_relative
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig

if TYPE_CHECKING:
    from spips_core import SPIPS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips pair", __doc__)
    parser.add_argument("reference", help="undistorted image: a path or fsspec URI")
    parser.add_argument("distorted", help="image to judge, of the same size")
    parser.add_argument("--map", type=Path, metavar="PNG", help="draw the heat maps into this file")
    parser.add_argument("--checkpoint", default="embedded", help="a packaged name, or a path")
    parser.add_argument("--backbone-weights", metavar="FILE", help="the trunk's weights")
    parser.add_argument("--lpips", action="store_true", help="also print LPIPS of the same trunk")
    complete_options(parser)
    options = parser.parse_args(arguments)
    prepare_process()
    images = [_absolute(uri) for uri in (options.reference, options.distorted)]
    if options.map is not None and options.map.suffix.lower() != ".png":
        parser.error(f"--map: expected a file that ends in .png, got {options.map}")
    if options.map is not None and str(options.map.absolute()) in images:
        parser.error(f"--map: expected a file that is not one of the images, got {options.map}")
    return exit_code_of(lambda: _score(options, *images), interrupted="nothing was written")


def _score(options: argparse.Namespace, reference_uri: str, distorted_uri: str) -> int:
    # torch takes seconds to import; --help need not wait for it.
    from pipeline.scoring.stages.load import load_pair
    from pipeline.scoring.stages.pixels import images_of
    from pipeline.scoring.stages.score import measures_of

    row = load_pair(reference_uri, distorted_uri, ImagesConfig())
    status, error = (row.column(name)[0].as_py() for name in ("status", "error"))
    if status == Status.UNREADABLE:  # as when its store is away
        raise FaultError(f"{status}: {error}")
    if status != Status.OK:
        raise ContractError(f"{status}: {error}")
    model = _load_model(options)
    columns = ("reference_pixels", "distorted_pixels")
    reference, distorted = (images_of(row, column, [0])[0][None] for column in columns)
    scores = model.score(reference, distorted)
    for column, name in measures_of(model).items():
        say(f"{column:<16}{getattr(scores, name).item():>10.4f}")
    if options.map is not None:
        from spips_core.heat_maps import draw_heat_maps  # matplotlib takes a second to import

        maps = {name: map_[0] for name, map_ in model.quality_maps(reference, distorted).items()}
        picture = draw_heat_maps(reference[0], distorted[0], maps, scores)
        try:
            options.map.write_bytes(picture)
        except OSError as problem:
            raise FaultError(f"--map: cannot be written: {problem}") from problem
        say(f"map             {options.map}")
    return DONE


def _load_model(options: argparse.Namespace) -> "SPIPS":
    from pipeline.scoring.stages.model import load_model
    from spips_core import packaged_checkpoints
    from spips_core.errors import FetchError, SpipsError

    names = packaged_checkpoints()
    if options.checkpoint not in names and not Path(options.checkpoint).is_file():
        raise ContractError(
            f"--checkpoint: expected one of {', '.join(names)}, or a file, got {options.checkpoint}"
            + did_you_mean(options.checkpoint, names)
        )
    source = ModelSourceConfig(
        checkpoint=options.checkpoint,
        backbone_weights=options.backbone_weights,
        lpips=options.lpips,
    )
    try:
        return load_model(source)
    except FetchError as problem:
        raise FaultError(str(problem)) from problem
    except SpipsError as problem:
        raise ContractError(str(problem)) from problem


def _absolute(uri: str) -> str:
    return str(Path(uri).absolute()) if is_relative(uri) and "://" not in uri else uri


if __name__ == "__main__":
    sys.exit(main())
