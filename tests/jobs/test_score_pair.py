from PIL import Image

from jobs import score_pair
from jobs.run_job import FAULT


def test_a_pair_s_scores_are_printed_and_its_maps_drawn(image_folder, tmp_path, capsys):
    reference, distorted = image_folder / "r0.png", image_folder / "d0_3.png"
    picture = tmp_path / "map.png"
    assert score_pair.main([str(reference), str(distorted), f"--map={picture}"]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines()[:7])
    assert float(shown["spips_score"]) > 0
    assert score_pair.main([str(reference), str(reference)]) == 0
    same = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert (same["spips_score"], same["psnr_db"], same["ssim"]) == ("0.0000", "inf", "1.0000")
    with Image.open(picture) as image:
        assert image.width > 4 * image.height * 0.8


def test_a_pair_that_cannot_be_scored_is_reported_in_one_line(image_folder, tmp_path, capsys):
    reference, other = image_folder / "r0.png", image_folder / "r1.png"
    for arguments, problem in (
        ([reference, other], "size_mismatch: pair: expected"),
        ([reference, tmp_path / "no.png"], "missing: distorted: expected"),
        (
            [reference, reference, "--checkpoint=none"],
            "--checkpoint: expected one of alexnet, embedded",
        ),
        ([reference, reference, "--checkpoint=alexnets"], "; did you mean alexnet?"),
    ):
        assert score_pair.main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert error.count("\n") == 1


def test_an_image_whose_store_fails_is_a_fault(image_folder, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.scoring.images.fetch.FETCH_FIRST_WAIT_S", 0.001)
    reference = str(image_folder / "r0.png")
    assert score_pair.main([reference, "http://127.0.0.1:9/d.png"]) == FAULT
    assert capsys.readouterr().err.startswith("fault: unreadable: distorted: ")
