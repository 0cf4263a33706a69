from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.manifests.make import make_manifest
from pipeline.runs.errors import ContractError
from tests.pipeline.manifests.conftest import config_of

av = pytest.importorskip("av")


@pytest.fixture
def film(tmp_path):
    """A function that writes a lossless video whose frames are ever brighter greys."""

    def film(name, num_frames=10, *, fps=4, size=(64, 48), offset=0, audio=False, codec="ffv1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            if audio:
                stream = container.add_stream("aac", rate=8000)
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.rate = 8000
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
                return str(path)
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
            for number in range(num_frames):
                grey = np.full(size[::-1], offset + 10 * number, np.uint8)
                if codec != "ffv1":
                    grey = np.random.default_rng(number).integers(0, 255, size[::-1], np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "gray")))
            container.mux(stream.encode(None))
        return str(path)

    return film


def grey_of(path):
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (48, 64, 3)
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0, 0])


def folders(tmp_path, every_s, **more):
    return {"folders": {"references": f"{tmp_path}/r", "frames_every_s": every_s,
                        "candidates": [f"{tmp_path}/a", f"b={tmp_path}/other"]} | more}  # fmt: skip


def test_frames_of_the_same_times_are_pairs_beside_the_manifest(tmp_path, make, film):
    for name in ("r/x/clip.mkv", "a/x/clip.mkv", "r/late.mkv", "other/late.mkv"):
        film(name, offset=0 if name.startswith("r/") else 5)
    rows = make(**folders(tmp_path, 1.0)).to_pylist()
    assert [(row["pair_id"], row["video"], row["time_s"], row["model"]) for row in rows] == [
        (f"{model}/{video}/{time_s:.3f}", video, time_s, model)
        for video, model in (("late", "b"), ("x/clip", "a"))
        for time_s in (0.0, 1.0, 2.0)
    ]
    # Of four frames per second the one at 1 s is the fifth.
    assert [grey_of(row["reference_uri"]) for row in rows] == [0, 40, 80] * 2
    assert [grey_of(row["distorted_uri"]) for row in rows] == [5, 45, 85] * 2
    frames = tmp_path / "made/manifest_frames"
    assert rows[0]["reference_uri"] == f"{frames}/references/late/0.000.png"
    assert rows[3]["distorted_uri"] == f"{frames}/models/a/x/clip/0.000.png"


def test_a_reference_s_frames_are_written_once_for_two_files_of_different_rates(
    tmp_path, make, film
):
    reference = film("target.mkv", 20, fps=8)
    models = [f"fast={film('fast.mkv', 20, fps=8)}", film("slow.mkv", 5, fps=2)]
    settings = {"references": reference, "candidates": models, "frames_every_s": 0.75}
    rows = make(folders=settings).to_pylist()
    assert [row["model"] for row in rows] == ["fast", "slow.mkv"] * 4
    assert [row["time_s"] for row in rows[::2]] == [0, 0.75, 1.5, 2.25]
    # 0.75 s is in the middle of the second frame of a slow video, which is shown then.
    assert [grey_of(row["distorted_uri"]) for row in rows] == [0, 0, 60, 10, 120, 30, 180, 40]
    assert len({row["reference_uri"] for row in rows}) == 4
    assert len(list((tmp_path / "made/manifest_frames").rglob("*.png"))) == 4 + 8


@pytest.mark.parametrize(
    ("distorted", "expected"),
    [
        ({"num_frames": 8}, "expected videos of one length, got 2.500 and 2.000 s at "),
        ({"size": (32, 48)}, "expected videos of one size, got 64 x 48 and 32 x 48 px at "),
        ({"audio": True}, "expected a video, got a file without one at "),
        (b"no video", "expected a video at "),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(tmp_path, refused, film, distorted, expected):
    film("r/clip.mkv")
    film("r/good.mkv")
    film("a/good.mkv")
    if isinstance(distorted, bytes):
        (tmp_path / "a/clip.mkv").write_bytes(distorted)
    else:
        film("a/clip.mkv", **distorted)
    candidates = [f"{tmp_path}/a"]
    (problem,) = refused(**folders(tmp_path, 0.5, candidates=candidates))
    assert problem.startswith(f"folders.candidates: {expected}")
    assert f"{tmp_path}/a/clip.mkv" in problem


def test_a_video_with_a_damaged_frame_leaves_no_frames(tmp_path, refused, film):
    film("r/clip.mkv", codec="mpeg4")
    path = Path(film("a/clip.mkv", codec="mpeg4"))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        middle, size = packets[5].pos, packets[5].size
    content = bytearray(path.read_bytes())
    content[middle + 10 : middle + size - 10] = bytes(size - 20)
    path.write_bytes(content)
    (problem,) = refused(**folders(tmp_path, 0.25, candidates=[f"{tmp_path}/a"]))
    assert problem.startswith(f"folders: expected a whole video at {path}, got InvalidDataError")


def test_frames_that_exist_are_kept_unless_overwritten(tmp_path, film):
    settings = {"references": film("r.mkv"), "candidates": [film("d.mkv")], "frames_every_s": 1}
    output = tmp_path / "made.parquet"
    make_manifest(config_of(output, None, folders=settings))
    output.unlink()
    with pytest.raises(ContractError, match="expected a new folder of frames, or --overwrite"):
        make_manifest(config_of(output, None, folders=settings))
    output.write_bytes(b"")
    config = config_of(output, None, folders=settings)
    overwrite = config.output.model_copy(update={"overwrite": True})
    make_manifest(config.model_copy(update={"output": overwrite}))
    assert len(pq.read_table(output)) == 3


def test_only_videos_are_taken_and_a_list_has_none(tmp_path, refused, film):
    film("r/clip.mkv")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/clip.png").write_bytes(b"")
    (problem,) = refused(**folders(tmp_path, 1, candidates=[f"{tmp_path}/a"]))
    assert "expected videos (.avi " in problem
    with pytest.raises(ValueError, match=r"expected folders with folders\.frames_every_s"):
        config_of(tmp_path / "m.parquet", None, source={"uri": "l.csv"},
                  folders={"frames_every_s": 1})  # fmt: skip
