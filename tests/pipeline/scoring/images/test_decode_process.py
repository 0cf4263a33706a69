import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.runs.errors import RowError
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.decode import DecodeProcess, decode_within_limits
from tests.chaos.fatal.sitecustomize import ABORT_PX, HANG_PX, HOARD_PX, SEGFAULT_PX

FATAL = str(Path(__file__).parents[3] / "chaos/fatal")
RULES = ImagesConfig(max_decode_s=5, max_pixels=1_000_000)


def encode(width_px: int, kind: str = "BMP") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width_px, 100), 50).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def process(monkeypatch):
    monkeypatch.syspath_prepend(FATAL)  # the process takes its path from this one
    with DecodeProcess(RULES) as process:
        yield process


def test_it_decodes_as_this_process_does(process):
    for content in (encode(120), encode(150, "PNG")):
        image = process.decode(content)
        expected = decode_within_limits(content, RULES)
        assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())


@pytest.mark.parametrize(
    ("width_px", "status", "words"),
    [
        (SEGFAULT_PX, "crashed", "died of signal SIGSEGV"),
        (ABORT_PX, "crashed", "died of signal SIGABRT"),
        (HANG_PX, "timed_out", "within 5 s (images.max_decode_s)"),
        (HOARD_PX, "decode_error", "MemoryError"),
    ],
)
def test_what_kills_it_is_a_status_and_the_next_image_decodes(process, width_px, status, words):
    with pytest.raises(RowError) as caught:
        process.decode(encode(width_px))
    assert caught.value.status == status
    assert words in str(caught.value)
    assert process.decode(encode(120)).size == (120, 100)


def test_an_error_of_the_decoder_is_the_same_as_in_this_process(process):
    with pytest.raises(RowError) as expected:
        decode_within_limits(b"no image", RULES)
    with pytest.raises(RowError) as got:
        process.decode(b"no image")
    assert (got.value.status, str(got.value)) == (expected.value.status, str(expected.value))


def test_ctrl_c_does_not_reach_it(process):
    process.decode(encode(120))
    assert os.getpgid(process._process.pid) != os.getpgid(0)


def test_it_ends_without_a_word_when_nobody_reads_its_answers():
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.scoring.images.decode", RULES.model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as decoder:  # fmt: skip
        decoder.stdout.close()
        content = encode(120)
        decoder.stdin.write(b"%d\n%b" % (len(content), content))
        decoder.stdin.close()
        assert decoder.stderr.read() == b""
    assert decoder.returncode == 0
