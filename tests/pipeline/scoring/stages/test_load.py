import http.server
import io
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.runs.schema import loaded_schema, pass_through_schema
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.resources import ROWS_PER_FETCH
from pipeline.scoring.stages.load import PairLoader
from spips_core.colour import PRIMARIES, matrix_profile

COLUMNS = ("reference_uri", "distorted_uri")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("pipeline.scoring.images.fetch.FETCH_FIRST_WAIT_S", 0.001)


def png(colour, size=(100, 96)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def load(rows: pa.Table, columns=COLUMNS, pixels_per_block=10**9, **rules) -> list[pa.Table]:
    pass_through = pass_through_schema(rows.schema, columns)
    loader = PairLoader(ImagesConfig(**rules), columns, pass_through, pixels_per_block)
    blocks = list(loader.load(rows))
    for block in blocks:
        assert block.schema == loaded_schema(pass_through)
    return blocks


def load_one(reference, distorted, **rules):
    rows = pa.table({"pair_id": ["a"], "reference_uri": [reference], "distorted_uri": [distorted]})
    (block,) = load(rows, **rules)
    (row,) = block.to_pylist()
    assert (row["status"] == "ok") == (row["error"] == "") == (row["height_px"] is not None)
    assert "\n" not in row["error"]
    return row


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.png"
    path.write_bytes(png("red"))
    return str(path)


def test_pixels_arrive_as_rows_of_rgb(good):
    row = load_one(good, good)
    pixels = np.frombuffer(row["distorted_pixels"], np.uint8).reshape(96, 100, 3)
    assert (row["height_px"], row["width_px"]) == (96, 100)
    assert (pixels == [255, 0, 0]).all()


def test_every_failed_load_has_one_line_that_names_the_image_and_its_uri(tmp_path, good):
    small, other, broken = (tmp_path / name for name in ("small.png", "other.png", "broken.png"))
    small.write_bytes(png("red", (95, 96)))
    other.write_bytes(png("red", (120, 96)))
    broken.write_bytes(png("red")[:50])
    for distorted, status in (
        (str(tmp_path / "absent.png"), "missing"),
        (None, "missing"),
        ("", "missing"),
        (str(tmp_path), "unreadable"),
        ("nosuchscheme://bucket/key", "unreadable"),
        ("relative/path.png", "unreadable"),
        ("file://otherhost/path.png", "unreadable"),
        (str(broken), "decode_error"),
        ("/etc/hostname", "forbidden"),
        (f"{tmp_path}/../{tmp_path.name}x/../../etc/hostname", "forbidden"),
        (str(other), "size_mismatch"),
    ):
        row = load_one(
            good, distorted, allowed_uri_prefixes=[str(tmp_path), "nosuchscheme://bucket"]
        )
        assert row["status"] == status, row
        assert row["error"].startswith("pair: " if status == "size_mismatch" else "distorted: ")
        assert "expected" in row["error"]
        assert "got" in row["error"]
        assert distorted is None or distorted in row["error"]
    assert load_one(str(small), str(small))["status"] == "too_small"
    assert load_one(good, good, max_pixels=9_599)["status"] == "too_large"
    assert load_one(good, good, max_pixels=9_600)["status"] == "ok"


def test_a_long_uri_is_shortened_in_its_error(good):
    data = "data:image/png;base64," + "A" * 26_000
    for uri in (data, "/absent/" + "a/" * 10_000, "/" + "a" * 10_000, "nosuch" * 5_000 + "://a"):
        row = load_one(good, uri)
        assert (row["status"] in ("unreadable", "missing")) == (len(row["error"]) < 1_500)
        assert ("got a data: URI" in row["error"]) == (uri == data)
        assert row["distorted_uri"] == uri


def test_colours_are_converted_unless_told_otherwise(tmp_path, good):
    linear = tmp_path / "linear.png"
    profile = matrix_profile(PRIMARIES[1], (1.0,))
    Image.new("RGB", (100, 96), (55, 55, 55)).save(linear, icc_profile=profile)
    for rules, expected in (({}, 128), ({"colour_profiles": "ignore"}, 55)):
        pixels = load_one(str(linear), str(linear), **rules)["reference_pixels"]
        assert set(pixels) == {expected}


def test_the_limit_on_bytes_is_exact(tmp_path, good):
    size = (tmp_path / "good.png").stat().st_size
    assert load_one(good, good, max_bytes=size)["status"] == "ok"
    row = load_one(good, good, max_bytes=size - 1)
    assert (row["status"], f"at most {size - 1} bytes" in row["error"]) == ("too_large", True)


def test_if_both_images_fail_the_error_is_the_reference_s(tmp_path):
    row = load_one(str(tmp_path / "absent.png"), str(tmp_path))
    assert row["status"] == "missing"
    assert row["error"].startswith("reference: ")


def test_images_in_the_manifest_are_loaded_and_do_not_pass_through():
    rows = pa.table(
        {
            "pair_id": ["good", "broken", "null", "large", "empty"],
            "reference_bytes": [png("red")] * 5,
            "distorted_bytes": [png("blue"), b"junk", None, png("blue") + bytes(1000), b""],
            "label": [1, 2, 3, 4, 5],
        }
    )
    (block,) = load(rows, ("reference_bytes", "distorted_bytes"), max_bytes=1000)
    assert block["status"].to_pylist() == [
        "ok",
        "decode_error",
        "missing",
        "too_large",
        "decode_error",
    ]
    assert "column distorted_bytes" in block["error"][1].as_py()
    assert block["label"].to_pylist() == [1, 2, 3, 4, 5]
    assert "reference_bytes" not in block.column_names


@pytest.mark.parametrize(
    "num_rows", [1, ROWS_PER_FETCH - 1, ROWS_PER_FETCH, 3 * ROWS_PER_FETCH + 1]
)
def test_each_row_in_is_a_row_out_in_order_with_its_own_image(tmp_path, num_rows):
    for grey in range(4):
        (tmp_path / f"{grey}.png").write_bytes(png((grey, grey, grey)))
    uris = [str(tmp_path / f"{i % 5}.png") for i in range(num_rows)]  # every fifth is missing
    rows = pa.table(
        {"pair_id": [str(i) for i in range(num_rows)], "reference_uri": uris, "distorted_uri": uris}
    )
    for pixels_per_block in (1, 5 * 9_600, 10**9):
        block = pa.concat_tables(load(rows, pixels_per_block=pixels_per_block))
        assert block["pair_id"].to_pylist() == rows["pair_id"].to_pylist()
        for i, row in enumerate(block.to_pylist()):
            assert row["status"] == ("missing" if i % 5 == 4 else "ok")
            assert row["status"] != "ok" or row["reference_pixels"][0] == i % 5


@pytest.mark.parametrize("resize", [None, 120])
def test_rows_that_share_images_load_as_each_row_alone(tmp_path, resize):
    uris = {name: str(tmp_path / f"{name}.png") for name in "abcd"}
    for side_px, name in enumerate("abc", start=110):
        noise = np.random.default_rng(side_px).integers(0, 256, (side_px, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(uris[name])
    pairs = ["ab", "ac", "ba", "aa", "cb", "ad", "da", "ab", "cc"]  # d is missing
    references, distorted = ([uris[pair[role]] for pair in pairs] for role in (0, 1))
    rows = pa.table({"pair_id": pairs, "reference_uri": references, "distorted_uri": distorted})
    rules = {"size_mismatch": "resize", "resize": resize}
    together = pa.concat_tables(load(rows, **rules))
    alone = [load(rows.slice(i, 1), **rules)[0] for i in range(len(pairs))]
    assert together.equals(pa.concat_tables(alone))
    assert together["status"].to_pylist().count("ok") == 7


def test_blocks_are_cut_at_the_pixel_budget(good):
    rows = pa.table(
        {"pair_id": list("abcdefg"), "reference_uri": [good] * 7, "distorted_uri": [good] * 7}
    )
    assert [block.num_rows for block in load(rows, pixels_per_block=2 * 9_600)] == [2, 2, 2, 1]


def test_secrets_in_a_uri_reach_neither_error_nor_columns():
    secret = (
        "https://user:PASSWORD@127.0.0.1:1/a.png?X-Amz-Signature=SIGNATURE&X-Amz-Credential=KEY"
    )
    row = load_one(secret, secret)
    assert row["status"] == "unreadable"
    for text in (row["error"], row["reference_uri"], row["distorted_uri"]):
        assert not any(word in text for word in ("PASSWORD", "SIGNATURE", "KEY"))
        assert "127.0.0.1:1/a.png" in text


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1/a b.png?prompt=a red cat&key=SECRET&x=1",
        "http://127.0.0.1:1/404 x?token=SECRET",
        "https://u:SEC RET@127.0.0.1:1/a.png",
        "s3://bucket/a b.png?X-Sig=SECRET y",
        "nosuch://u:SECRET@127.0.0.1:1/a.png",
    ],
)
def test_secrets_of_a_uri_with_spaces_are_hidden_too(uri):
    row = load_one(uri, uri)
    assert row["status"] == "unreadable"
    for text in (row["error"], row["reference_uri"]):
        assert not any(word in text for word in ("SEC", "RET", "red", "cat"))
        assert text.isprintable()


def test_an_error_is_one_line_for_any_uri(tmp_path):
    row = load_one(f"{tmp_path}/a\n\x1b[31m\x00\u2028b.png", "x")
    assert r"a\n\x1b[31m\x00\u2028b.png" in row["error"]
    assert row["error"].isprintable()


@pytest.mark.parametrize("chain", ["simplecache::file://{}", "zip://a::{}", "blockcache::{}"])
def test_a_chain_of_stores_is_refused_and_other_rows_are_loaded(good, chain):
    uri = chain.format(good)
    rows = pa.table(
        {"pair_id": ["a", "b"], "reference_uri": [good] * 2, "distorted_uri": [uri, good]}
    )
    (block,) = load(rows)
    assert block["status"].to_pylist() == ["forbidden", "ok"]
    assert "a chain of several" in block["error"][0].as_py()


def test_other_columns_pass_through_unchanged(good):
    rows = pa.table(
        {
            "pair_id": ["a", "b"],
            "reference_uri": [good, good],
            "distorted_uri": [good, None],
            "model": pa.array(["x", None]).dictionary_encode(),
            "tags": [["p", "q"], []],
            "when": pa.array([1, None], pa.timestamp("ms", "UTC")),
            "note": pa.nulls(2),
        }
    )
    (block,) = load(rows)
    for name in ("model", "tags", "when", "note"):
        assert block[name].equals(rows[name])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (401, "forbidden"),
        (403, "forbidden"),
        (404, "missing"),
        (410, "missing"),
        (418, "unreadable"),
    ],
)
def test_an_http_server_s_answer_becomes_a_status(code, status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.png"
        row = load_one(uri, uri)
        server.shutdown()
    assert row["status"] == status


def test_the_load_stage_does_not_import_torch():
    command = "import sys, pipeline.scoring.stages.load; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.parametrize("resize", [None, 128])
@pytest.mark.parametrize("sides", [(300, 290, 300), (290, 300, 290)])
def test_a_reference_that_pairs_share_is_cropped_to_each_of_them(tmp_path, resize, sides):
    generator = np.random.default_rng(0)
    photo = Image.fromarray(generator.integers(0, 256, (300, 300, 3), np.uint8))
    names = [str(tmp_path / f"{side}.png") for side in sides]
    for side, name in zip(sides, names, strict=True):
        margin = (300 - side) // 2
        photo.crop((margin, margin, 300 - margin, 300 - margin)).save(name)
    columns = {"pair_id": ["a", "b", "c"], "distorted_uri": names}
    rows = pa.table(columns | {"reference_uri": [str(tmp_path / "300.png")] * 3})
    (block,) = load(rows, size_mismatch="crop", max_crop_px=10, resize=resize)
    for side, row in zip(sides, block.to_pylist(), strict=True):
        assert (row["status"], row["height_px"]) == ("ok", resize or side)
        assert row["reference_pixels"] == row["distorted_pixels"]
