import os
from datetime import UTC, datetime, timedelta

import fsspec
import pytest

from pipeline.runs.finished import open_run
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images import tags
from pipeline.scoring.reuse.attempts import find_changed
from pipeline.scoring.reuse.known_scores import TAGS
from pipeline.scoring.reuse.rerun import NUM_SAMPLED, advise

NOW = datetime.now(UTC)  # when the tests are collected, which can be an hour before they run


def advise_on(write_run, folder, minutes: int, statuses=("ok", "ok", "missing"), **options):
    """Return what is said of a run of three rows that started so many minutes from now."""
    started_at = (NOW + timedelta(minutes=minutes)).isoformat(timespec="seconds")
    run = write_run(
        {"pair_id": [f"p{i}" for i in range(len(statuses))], "status": list(statuses),
         "reference_uri": [f"{folder}/r.png"] * len(statuses),
         "distorted_uri": [f"{folder}/d{i}.png" for i in range(len(statuses))]},
        f"run{minutes}", finished_at=started_at, absent=TAGS, **options,
    )  # fmt: skip
    return list(advise(open_run(run), ImagesConfig()))


def test_images_that_changed_since_the_run_are_counted_on_any_store(write_run, folder):
    fs, path = fsspec.core.url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    for name in ("r", "d0", "d2"):
        fs.pipe_file(f"{path}/{name}.png", b"image")
    (warning,) = advise_on(write_run, folder, -10)
    # d1 is gone, and d2 belongs to a row that is retried.
    assert warning.startswith("warning: 2 of 3 images that were looked at have changed since this")
    assert f"for example {folder}/d0.png" in warning
    assert "give another output.run_id" in warning
    assert advise_on(write_run, folder, 600) == []


def test_an_image_that_was_mended_before_a_retry_has_not_changed_since(write_run, tmp_path):
    for name, hours in (("r", -9), ("d0", -9), ("d1", -3)):
        (tmp_path / f"{name}.png").touch()
        modified_s = (NOW + timedelta(hours=hours)).timestamp()
        os.utime(tmp_path / f"{name}.png", (modified_s, modified_s))
    retried_at = (NOW - timedelta(hours=2)).isoformat(timespec="seconds")
    for attempts, num_changed in (([1, 2], 0), ([1, 1], 1)):
        lines = advise_on(write_run, tmp_path, -300 - num_changed, ["ok", "ok"],
                          retried_at=retried_at, attempts=attempts)  # fmt: skip
        assert len(lines) == num_changed


def test_of_remote_images_a_sample_is_looked_at(write_run, one_s3_store):
    fs = fsspec.filesystem("s3")
    num_rows = 3 * NUM_SAMPLED
    fs.pipe({f"{one_s3_store.bucket}/d{i}.png": b"image" for i in range(num_rows)})
    (warning,) = advise_on(write_run, one_s3_store.bucket, -10, ["ok"] * num_rows)
    num_changed, num_looked = (int(warning.split()[i]) for i in (1, 3))
    assert NUM_SAMPLED / 2 < num_changed <= num_looked <= NUM_SAMPLED


@pytest.mark.parametrize("uri", ["https://host/a.png?sig=***", "nosuchscheme://a/b.png"])
def test_images_that_cannot_be_looked_at_are_not_reported(write_run, uri):
    columns = {"pair_id": ["a"], "reference_uri": [uri], "distorted_uri": [uri]}
    run = write_run(columns, finished_at=(NOW - timedelta(days=1)).isoformat(timespec="seconds"))
    assert list(advise(open_run(run), ImagesConfig())) == []


def test_local_images_with_other_tags_than_recorded_are_counted_by_row(
    write_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(tags, "UNSETTLED_S", 0.0)
    names = ("r", "d0", "d1", "d2")
    files = {name: str(tmp_path / f"{name}.png") for name in names}
    for file in files.values():
        (tmp_path / file).write_bytes(b"image")
    now = tags.tags_of(files.values())
    distorted = [files[name] for name in ("d0", "d1", "d2")]
    run = open_run(
        write_run(
            {"pair_id": ["a", "b", "c"], "status": ["ok", "ok", "missing"],
             "reference_uri": [files["r"]] * 3, "distorted_uri": distorted,
             "reference_tag": [now[files["r"]]] * 3,
             "distorted_tag": [now[uri] for uri in distorted]}
        )
    )  # fmt: skip
    assert list(advise(run, ImagesConfig())) == []
    (tmp_path / "d1.png").touch()
    (tmp_path / "d2.png").unlink()
    (warning,) = advise(run, ImagesConfig())
    assert warning.startswith("warning: the images of 1 of 2 rows that were looked at have changed")
    (tmp_path / "r.png").write_bytes(b"other")
    assert "images of 2 of 2 rows" in next(advise(run, ImagesConfig()))
    changed = [row for _, rows in find_changed(run, ImagesConfig()) for row in rows.to_pylist()]
    assert [row["pair_id"] for row in changed] == ["a", "b", "c"]
    outside = ImagesConfig(allowed_uri_prefixes=["/nowhere"])  # is not even looked at
    assert list(advise(run, outside)) == []
