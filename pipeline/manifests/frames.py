"""Sample frames of pairs of videos at the same times, as PNG files beside the manifest.

Files, not bytes in the manifest: a report can show them, and the frames of a reference are stored,
fetched and decoded once for all models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise, repeat
from typing import TYPE_CHECKING

import pyarrow as pa
from fsspec import AbstractFileSystem
from PIL import Image

from pipeline.manifests.source import MAX_NAMED
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import STORE_ERRORS, describe, open_store, store_error, write_whole
from pipeline.runs.uris import redact

if TYPE_CHECKING:
    from av import VideoFrame

FRAME_COLUMNS = ("video", "time_s")
"""What a manifest of frames has besides that of images: the video's name, and seconds."""
SAME_TIME_S = 1e-4
FAST_COMPRESSION = 1


@dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        uri: where it is.
        height_px: of a frame.
        width_px: of a frame.
        start_s: time stamp of its first frame.
        length_s: from there to the end of its last frame.
        longest_frame_s: longest time that it shows a frame.
    """

    uri: str
    height_px: int
    width_px: int
    start_s: float
    length_s: float
    longest_frame_s: float


def sample_frames(
    pairs: pa.Table, every_s: float, manifest_uri: str, *, overwrite: bool
) -> pa.Table:
    """Write the frames of pairs of videos, and return a row for each pair of frames.

    A frame is sampled at 0, every_s, 2 every_s ... seconds from the first frame: the one that a
    player shows then. If a video fails on the way, a new folder is removed.

    Args:
        pairs: of videos, as `pair_folders` makes them.
        every_s: time between two samples, in seconds.
        manifest_uri: the frames are written to the folder <its name without suffix>_frames.
        overwrite: write into a folder that exists.

    Raises:
        ContractError: PyAV is not installed, a file is no video, the two of a pair differ in size
            or length, or the folder exists; all pairs are checked before a frame is written.
        FaultError: a store is away.
    """
    _check_installed()
    rows = pairs.to_pylist()
    videos = _check_videos(rows)
    folder_uri = f"{manifest_uri.removesuffix('.parquet')}_frames"
    fs, folder = open_store(folder_uri)
    is_new = not fs.exists(folder)
    if not is_new and not overwrite:
        raise ContractError(
            f"output.uri: expected a new folder of frames, or --overwrite, got one that exists: "
            f"{folder_uri}"
        )
    written: dict[str, None] = {}
    sampled = []
    try:
        for number, row in enumerate(rows):
            both = videos[row["reference_uri"]], videos[row["distorted_uri"]]
            places = f"references/{row['video']}", f"models/{row['model']}/{row['video']}"
            for time_s in _write_pair(both, places, every_s, fs, folder, written):
                paths = (f"{folder_uri}/{place}/{time_s:.3f}.png" for place in places)
                named = dict(zip(("reference_uri", "distorted_uri"), paths, strict=True))
                id_ = f"{row['pair_id']}/{time_s:.3f}"
                sampled.append((row["video"], time_s, number, row | named | {
                    "pair_id": id_, "time_s": time_s,
                }))  # fmt: skip
    except BaseException:
        if is_new and written:
            fs.rm(folder, recursive=True)
        raise
    # The frames of one reference are next to each other.
    sampled.sort(key=lambda entry: entry[:3])
    return pa.Table.from_pylist(
        [row for _, _, _, row in sampled], pairs.schema.append(pa.field("time_s", pa.float64()))
    )


def _check_installed() -> None:
    try:
        import av  # noqa: F401 - an extra
    except ImportError as error:
        raise ContractError(
            "folders.frames_every_s: expected PyAV, got none; install spips[video]"
        ) from error


def _check_videos(rows: Sequence[dict[str, str]]) -> dict[str, Video]:
    """Return the videos of all pairs, by URI.

    Raises:
        ContractError: one is no video, or the two of a pair differ.
        FaultError: a store is away.
    """
    videos: dict[str, Video] = {}
    problems = []
    for setting, column in (("references", "reference_uri"), ("candidates", "distorted_uri")):
        for uri in dict.fromkeys(row[column] for row in rows):
            try:
                videos[uri] = _inspect(uri)
            except ContractError as error:
                problems += [f"folders.{setting}: {problem}" for problem in error.problems]
    for row in rows:
        reference, distorted = (
            videos.get(row[f"{role}_uri"]) for role in ("reference", "distorted")
        )
        if reference and distorted and (problem := _compare(reference, distorted)):
            problems.append(f"folders.candidates: {problem}")
    if len(problems) > MAX_NAMED:
        problems[MAX_NAMED:] = [f"folders: {len(problems) - MAX_NAMED:,} more such problems"]
    if problems:
        raise ContractError(*problems)
    return videos


def _inspect(uri: str) -> Video:
    """Read a video's time stamps, without decoding it.

    Raises:
        ContractError: it is no video.
        FaultError: its store is away.
    """
    import av

    try:
        fs, path = open_store(uri)
        with fs.open(path, "rb") as file, av.open(file) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise ContractError(f"expected a video, got a file without one at {redact(uri)}")
            spans = sorted(
                (float(packet.pts * unit_s), float((packet.duration or 0) * unit_s))
                for packet in container.demux(stream)
                if packet.pts is not None and (unit_s := packet.time_base) is not None
            )  # fmt: skip
            size = stream.codec_context.height, stream.codec_context.width
    except av.FFmpegError as error:
        raise ContractError(f"expected a video at {redact(uri)}, got {describe(error)}") from error
    except STORE_ERRORS as error:
        raise store_error(f"{redact(uri)} cannot be read", error) from error
    if not spans:
        raise ContractError(f"expected a video with frames and times, got none at {redact(uri)}")
    starts = [start for start, _ in spans]
    gaps = [after - before for before, after in pairwise(starts)]
    last_s = spans[-1][1] or (gaps[-1] if gaps else 0.0)
    longest_s = max([*gaps, last_s])
    return Video(uri, *size, starts[0], starts[-1] + last_s - starts[0], longest_s)


def _compare(reference: Video, distorted: Video) -> str:
    """Return how the videos of a pair differ, or ""; lengths may differ by one frame."""
    places = f"at {redact(reference.uri)} and {redact(distorted.uri)}"
    sizes = [f"{one.width_px} x {one.height_px}" for one in (reference, distorted)]
    if sizes[0] != sizes[1]:
        return f"expected videos of one size, got {sizes[0]} and {sizes[1]} px {places}"
    allowed_s = max(reference.longest_frame_s, distorted.longest_frame_s) + SAME_TIME_S
    if abs(reference.length_s - distorted.length_s) > allowed_s:
        got = f"{reference.length_s:.3f} and {distorted.length_s:.3f} s"
        return f"expected videos of one length, got {got} {places}"
    return ""


def _write_pair(
    videos: tuple[Video, Video], places: tuple[str, str], every_s: float, fs: AbstractFileSystem,
    folder: str, written: dict[str, None],
) -> Iterator[float]:  # fmt: skip
    """Write the frames of two videos that are not written yet, and yield the times of all."""
    num_frames = int((min(video.length_s for video in videos) - SAME_TIME_S) / every_s) + 1
    times_s = [number * every_s for number in range(num_frames)]
    for time_s, *frames in zip(times_s, *(_frames_at(v, times_s) for v in videos), strict=True):
        for place, frame in zip(places, frames, strict=True):
            path = f"{folder}/{place}/{time_s:.3f}.png"
            if path not in written:
                content = BytesIO()
                pixels = frame.to_ndarray(format="rgb24")
                Image.fromarray(pixels).save(content, "PNG", compress_level=FAST_COMPRESSION)
                write_whole(fs, path, content.getvalue())
                written[path] = None
        yield time_s


def _frames_at(video: Video, times_s: Sequence[float]) -> Iterator["VideoFrame"]:
    """Yield the frame that a player shows at each time.

    Raises:
        ContractError: the video is damaged.
    """
    import av

    fs, path = open_store(video.uri)
    index = 0
    shown: VideoFrame | None = None
    try:
        with fs.open(path, "rb") as file, av.open(file) as container:
            for frame in container.decode(container.streams.video[0]):
                if frame.is_corrupt:
                    raise av.InvalidDataError(0, "a damaged frame")
                since_s = (frame.time or 0.0) - video.start_s
                while shown is not None and index < len(times_s):
                    if times_s[index] + SAME_TIME_S >= since_s:
                        break
                    yield shown
                    index += 1
                shown = frame
            if shown is not None:
                yield from repeat(shown, len(times_s) - index)
    except av.FFmpegError as error:
        raise ContractError(
            f"folders: expected a whole video at {redact(video.uri)}, got {describe(error)}"
        ) from error
    if shown is None:
        raise ContractError(f"folders: expected frames at {redact(video.uri)}, got none")
