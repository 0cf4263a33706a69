"""A short share of `make fuzz`, and the files by which it found faults."""

from tests.fuzz.__main__ import run
from tests.fuzz.images import encode_all, mutate
from tests.fuzz.structure import STRUCTURES


def test_damaged_files_become_pixels_or_a_status_and_the_process_lives():
    statuses, broken, summaries = run(600)
    assert broken == []
    outcomes = {name.split()[1] for name in statuses if " " in name}
    assert outcomes >= {"ok", "decode_error", "too_large"}
    assert statuses["scored"] > 10
    assert sum(count for name, count in statuses.items() if " " in name) == 600
    assert len(summaries) == 1
    assert summaries[0]["grown_mb"] < 300
    assert sum(len(reasons) for reasons in summaries[0]["reasons"].values()) > 20


def test_a_folder_s_files_are_pairs_with_themselves(tmp_path):
    (tmp_path / "folder").mkdir()
    for number, (name, content) in enumerate(encode_all()[::8]):
        (tmp_path / "folder" / f"{number}.{name}").write_bytes(content)
    (tmp_path / "junk").write_bytes(b"junk")
    statuses, broken, _ = run(number + 2, folder=tmp_path)
    assert broken == []
    assert statuses["scored"] == number + 1
    assert statuses["none decode_error"] == 1


def test_a_file_is_damaged_the_same_way_each_time():
    seeds = encode_all()
    assert mutate(seeds, 77) == mutate(seeds, 77)
    assert len({mutate(seeds, number)[1] for number in range(200)}) > 190


def test_parts_that_are_not_damaged_make_the_same_file():
    for name, content in encode_all():
        parts = STRUCTURES[name].split(content)
        assert len(parts) > 1 or name == "WEBP"
        joined = STRUCTURES[name].join(parts, [0] * len(parts))
        assert joined == content or (name == "TIFF" and joined[8:].startswith(content[8:]))
