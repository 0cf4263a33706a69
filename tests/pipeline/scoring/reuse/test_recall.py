"""Pairs that an earlier run has scored are not fetched, or not decoded."""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.runs.finished import open_run
from pipeline.runs.schema import SCORE_FIELDS, pass_through_schema
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images import tags
from pipeline.scoring.reuse.known_scores import UNKNOWN, read_known_scores
from pipeline.scoring.reuse.recall import Recall, take_tags
from pipeline.scoring.stages.load import PairLoader

COLUMNS = ("reference_uri", "distorted_uri")
opened: list[str] = []
"""Images that this process has opened."""


def note_opened(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).endswith(".png"):
        opened.append(str(arguments[0]))


sys.addaudithook(note_opened)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((96, 100, 3), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pairs(tmp_path, monkeypatch) -> pa.Table:
    """Six pairs, of which two share a reference."""
    monkeypatch.setattr(tags, "UNSETTLED_S", 0.0)
    uris = {name: str(tmp_path / f"{name}.png") for name in "rsabcdef"}
    for grey, uri in enumerate(uris.values()):
        Path(uri).write_bytes(png(grey))
    references = [uris[name] for name in "rrsabc"]
    distorted = [uris[name] for name in "abcdef"]
    return pa.table(
        {"pair_id": list("uvwxyz"), "reference_uri": references, "distorted_uri": distorted}
    )


@pytest.fixture
def recall_of(write_run):
    """A function that writes a run over pairs, and returns what is known of them now."""

    def recall(rows: pa.Table, **changes) -> Recall:
        columns = {name: rows[name].to_pylist() for name in rows.column_names}
        found = take_tags([rows[name] for name in COLUMNS], ImagesConfig())
        for role, name in zip(("reference", "distorted"), COLUMNS, strict=True):
            contents = [Path(uri).read_bytes() for uri in columns[name]]
            columns[f"{role}_sha256"] = [hashlib.sha256(each).hexdigest() for each in contents]
            columns[f"{role}_tag"] = [found[uri] for uri in columns[name]]
        for number, field in enumerate(SCORE_FIELDS[:-1]):  # without lpips
            columns[field.name] = pa.array(np.arange(6) + number / 8, pa.float32())
        columns |= {"height_px": [96] * 6, "width_px": [100] * 6} | changes
        return Recall(found, read_known_scores(open_run(write_run(columns, "one"))))

    return recall


def load(rows: pa.Table, recall: Recall) -> dict[str, dict]:
    """Load rows and their tags; return them by pair_id."""
    loader = PairLoader(ImagesConfig(), COLUMNS, pass_through_schema(rows.schema, COLUMNS), 10**9)
    now = take_tags([rows[name] for name in COLUMNS], ImagesConfig())
    blocks = list(loader.load(rows, recall=Recall(now, recall.known)))
    return {row["pair_id"]: row for block in blocks for row in block.to_pylist()}


def test_pairs_that_are_known_by_name_are_not_opened(pairs, recall_of):
    recall = recall_of(pairs)
    assert opened  # by this test
    opened.clear()
    loaded = load(pairs, recall)
    assert opened == []
    for index, row in enumerate(loaded.values()):
        assert row["reused_from"] == "one"
        assert (row["height_px"], row["width_px"], row["status"]) == (96, 100, "ok")
        assert [row[f.name] for f in SCORE_FIELDS] == [*(index + i / 8 for i in range(8)), None]
        assert row["reference_pixels"] is None
        for role in ("reference", "distorted"):
            content = Path(row[f"{role}_uri"]).read_bytes()
            assert row[f"{role}_sha256"] == hashlib.sha256(content).hexdigest()
            assert row[f"{role}_tag"] is not None


def test_the_same_bytes_under_another_name_or_tag_are_not_decoded(pairs, recall_of, tmp_path):
    recall = recall_of(pairs)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "b.png").write_bytes(png(99))
    (tmp_path / "s.png").rename(tmp_path / "t.png")
    rows = pairs.set_column(1, "reference_uri", pa.array(
        [uri.replace("s.png", "t.png") for uri in pairs["reference_uri"].to_pylist()]))  # fmt: skip
    loaded = load(rows, recall)
    # b is the distorted image of v and the reference of y
    new = {id_ for id_, row in loaded.items() if row["reused_from"] is None}
    assert new == {"v", "y"}
    assert {id_ for id_, row in loaded.items() if row["reference_pixels"] is not None} == new
    assert [loaded[id_]["spips_score"] for id_ in "uwz"] == [0, 2, 5]


def test_failed_rows_and_those_of_other_kernels_are_not_known(pairs, recall_of):
    recall = recall_of(pairs, status=["ok", "crashed", "ok", "ok", "ok", "ok"])
    loaded = load(pairs, recall)
    assert [id_ for id_, row in loaded.items() if row["reused_from"] is None] == ["v"]


def test_a_name_that_has_had_two_contents_is_not_trusted(pairs, recall_of, tmp_path):
    digests = [hashlib.sha256((tmp_path / "r.png").read_bytes()).hexdigest(), "1" * 64]
    rest = [hashlib.sha256((tmp_path / f"{n}.png").read_bytes()).hexdigest() for n in "sabc"]
    recall = recall_of(pairs, reference_sha256=digests + rest)
    names = recall.known.find_tags(recall.tags)
    assert str(tmp_path / "r.png") not in names
    assert str(tmp_path / "s.png") in names
    loaded = load(pairs, recall)  # r is read, and u is known by its bytes
    assert loaded["u"]["reused_from"] == "one"
    assert loaded["v"]["reused_from"] is None


def test_images_whose_hash_ends_in_zeros_are_found(pairs, recall_of):
    digests = [f"{i:02x}" * 31 + "00" for i in range(6)]
    recall = recall_of(pairs, reference_sha256=digests)
    rows = recall.find_by_content([(digests[2], recall.known.images_of(np.array([0]))[0][1])])
    assert rows.tolist() == [UNKNOWN]
    known = recall.known.images_of(np.arange(6))
    assert sorted(reference for reference, _ in known) == digests
    assert recall.find_by_content(known).tolist() == list(range(6))


def test_a_run_without_ok_rows_knows_nothing(pairs, recall_of):
    recall = recall_of(pairs, status=["missing"] * 6)
    assert {row["reused_from"] for row in load(pairs, recall).values()} == {None}
