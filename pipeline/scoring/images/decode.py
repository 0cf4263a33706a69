"""Decode a pair's images, in a process of their own if need be, and bring both to one size.

A damaged image can crash a decoder, hang it, or exhaust its memory. Ray then gives the same rows to
a new process, which would die as well. So a repeated load task decodes in another process: what
kills that one is one row's status, and the load task goes on.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
from PIL import Image

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.resources import DECODE_BYTES, DECODE_BYTES_PER_PIXEL
from spips_core import decode
from spips_core.errors import TooManyPixelsError, UndecodableImageError


def decode_image(content: bytes, images: ImagesConfig) -> Image.Image:
    """Decode an image file to 8-bit RGB, as `spips_core.decode.decode_image` does.

    Raises:
        RowError: too_large, known from the header; or decode_error.
    """
    try:
        convert = images.colour_profiles == "convert"
        return decode.decode_image(content, images.max_pixels, convert_colours=convert)
    except TooManyPixelsError as error:
        setting = str(error).replace("(max_pixels)", "(images.max_pixels)")
        raise RowError(Status.TOO_LARGE, setting) from error
    except UndecodableImageError as error:
        raise RowError(Status.DECODE_ERROR, str(error)) from error


def fit_pair(
    reference: Image.Image, distorted: Image.Image, images: ImagesConfig
) -> tuple[Image.Image, Image.Image]:
    """Bring a decoded pair to the size at which it is scored.

    Raises:
        RowError: size_mismatch, too_large or too_small.
    """
    if reference.size != distorted.size and images.size_mismatch != "resize":
        reference, distorted = _cropped(reference, distorted, images)
    size = reference.size
    if images.resize is not None:
        scale = images.resize / min(size)
        size = (
            max(round(size[0] * scale), images.resize),
            max(round(size[1] * scale), images.resize),
        )
    if min(size) < images.min_side_px:
        raise RowError(
            Status.TOO_SMALL,
            f"expected sides of at least {images.min_side_px} px (images.min_side_px), "
            f"got {size[1]} x {size[0]} (H x W)",
        )
    if size[0] * size[1] > images.max_pixels:
        raise RowError(
            Status.TOO_LARGE,
            f"expected at most {images.max_pixels} pixels (images.max_pixels) after resizing, "
            f"got {size[1]} x {size[0]} (H x W)",
        )
    return _resized(reference, size), _resized(distorted, size)


def _cropped(
    reference: Image.Image, distorted: Image.Image, images: ImagesConfig
) -> tuple[Image.Image, Image.Image]:
    """Return the centres of two images of nearly the same size, as large as both allow."""
    width, height = np.minimum(reference.size, distorted.size).tolist()
    most = images.max_crop_px if images.size_mismatch == "crop" else 0
    if np.abs(np.subtract(reference.size, distorted.size)).max() > most:
        within = f" within {most} px (images.max_crop_px)" if most else ""
        raise RowError(
            Status.SIZE_MISMATCH,
            f"expected the reference's {reference.height} x {reference.width} (H x W){within}, "
            f"got {distorted.height} x {distorted.width}",
        )
    corners = [((i.width - width) // 2, (i.height - height) // 2) for i in (reference, distorted)]
    boxes = [(left, top, left + width, top + height) for left, top in corners]
    return reference.crop(boxes[0]), distorted.crop(boxes[1])


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


Pipes = tuple[IO[bytes], IO[bytes]]


@contextmanager
def _memory_limit(rules: ImagesConfig) -> Iterator[None]:
    """Let an allocation fail that no accepted image needs; without /proc there is no limit."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(statm.read_text().split()[5]) * resource.getpagesize()
    wanted = DECODE_BYTES + rules.max_bytes + DECODE_BYTES_PER_PIXEL * rules.max_pixels
    highest = [limit for limit in unlimited if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([used + wanted, *highest]), unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)


def decode_within_limits(content: bytes, rules: ImagesConfig) -> Image.Image:
    """Decode an image in limited memory; this process dies of SIGALRM when it takes too long.

    A timer of the kernel, because a decoder that hangs can hold Python's lock.

    Raises:
        RowError: as `decode_image`.
    """
    signal.setitimer(signal.ITIMER_REAL, rules.max_decode_s)
    try:
        with _memory_limit(rules):
            return decode_image(content, rules)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class DecodeProcess:
    """A process that decodes for this one; it starts with the first image, and anew when it died.

    Attributes:
        rules: which images are accepted.
    """

    def __init__(self, rules: ImagesConfig) -> None:
        """Start nothing yet."""
        self.rules = rules
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def decode(self, content: bytes) -> Image.Image:
        """Decode an image to 8-bit RGB.

        Raises:
            RowError: as `decode_image`; or crashed or timed_out, when the process has died.
        """
        process = self._process or self._start()
        images, answers = cast("Pipes", (process.stdin, process.stdout))
        try:
            images.write(b"%d\n%b" % (len(content), content))
            images.flush()
            answer = json.loads(answers.readline())
            if "status" in answer:
                raise RowError(Status(answer["status"]), answer["error"])
            return Image.frombytes("RGB", answer["size"], answers.read(answer["num_bytes"]))
        except (OSError, ValueError) as error:  # half an answer, or none
            self._process = None
            process.communicate()  # its exit code is its own: nothing else ends it
            raise _describe_death(process.returncode, self.rules) from error

    def _start(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, "-m", __name__, self.rules.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,  # Ctrl-C is for this process; that one ends with its input
        )
        return self._process


def _describe_death(exit_code: int, rules: ImagesConfig) -> RowError:
    if exit_code == -signal.SIGALRM:
        limit = f"{rules.max_decode_s:g} s (images.max_decode_s)"
        return RowError(Status.TIMED_OUT, f"expected to decode within {limit}, got no end")
    died = (
        f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    )
    return RowError(Status.CRASHED, f"expected an image, got a decoder that died of {died}")


def main() -> None:
    """Decode what arrives on standard input until it ends.

    An image is the number of its bytes as a line, then its bytes. An answer is a line of JSON, then
    the pixels, if there are any.
    """
    rules = ImagesConfig.model_validate_json(sys.argv[1])
    # Whoever reads the answers may have been killed.
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # a decoder may print
        while num_bytes := sys.stdin.buffer.readline():
            try:
                image = decode_within_limits(sys.stdin.buffer.read(int(num_bytes)), rules)
                pixels = image.tobytes()
                answer = {"size": image.size, "num_bytes": len(pixels)}
            except RowError as error:
                pixels, answer = b"", {"status": error.status, "error": str(error)}
            answers.write(b"%b\n%b" % (json.dumps(answer).encode(), pixels))
            answers.flush()


if __name__ == "__main__":
    main()
