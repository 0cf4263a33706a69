"""A short share of `make fuzz`."""

from tests.fuzz.__main__ import run
from tests.fuzz.images import encode_all, mutate


def test_damaged_files_become_pixels_or_a_status_and_the_process_lives():
    statuses, broken, summaries = run(2_000)
    assert broken == []
    outcomes = {name.split()[1] for name in statuses if " " in name}
    assert outcomes >= {"ok", "decode_error", "too_large"}
    assert statuses["scored"] > 20
    assert sum(count for name, count in statuses.items() if " " in name) == 2_000
    assert len(summaries) == 1
    assert summaries[0]["grown_mb"] < 300


def test_a_file_is_damaged_the_same_way_each_time():
    seeds = encode_all()
    names = {name.partition("-")[0] for name, _ in seeds}
    assert names >= {"JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000"}
    assert mutate(seeds, 77) == mutate(seeds, 77)
    assert len({mutate(seeds, number)[1] for number in range(200)}) > 190
