import pyarrow.parquet
import pytest

from jobs.make_manifest import main


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of images in the working directory, one with a comma in its name."""
    for name in ("gt/a.png", "gt/b.png", "x,y/a.png", "x,y/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_become_a_manifest_and_the_next_command_is_shown(folders, capfd):
    assert main(["gt", "x,y", "-o", "m.parquet"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "note: x,y: 1 file of references left out, without a partner here: b.png",
        "note: x,y: 1 file left out, without a reference: c.png",
        "x,y                                1",
        "rows                               1",
        f"wrote {folders}/m.parquet",
        f"next  spips score {folders}/m.parquet -o {folders}/scores",
    ]
    assert pyarrow.parquet.read_table("m.parquet").column("pair_id").to_pylist() == ["x,y/a"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["gt", "-o", "m.parquet", "m=x,y"],
        ["--output.uri=m.parquet", "gt", "m=x,y"],
        ["--config=c.yaml", "--folders.references=gt", '--folders.candidates=["m=x,y"]'],
        ["--config=c.yaml", "gt", "m=x,y"],
    ],
)
def test_arguments_options_and_files_say_the_same(arguments, folders):
    (folders / "c.yaml").write_text("output: {uri: m.parquet}")
    assert main(arguments) == 0
    assert pyarrow.parquet.read_table("m.parquet").column("pair_id").to_pylist() == ["m/a"]


def test_short_options_are_settings(folders):
    (folders / "a.csv").write_text("key,gt,out,net\n001,gt/a.png,gt/b.png,x\n")
    options = ["--reference-column=gt", "--distorted-column", "out", "--pair-id-column=key"]
    for extra in ([], ["--overwrite"]):
        assert main(["a.csv", "-o", "m.parquet", *options, "--model-column=net", *extra]) == 0
    assert pyarrow.parquet.read_table("m.parquet").to_pylist() == [
        {
            "pair_id": "001",
            "reference_uri": f"{folders}/gt/a.png",
            "distorted_uri": f"{folders}/gt/b.png",
            "model": "x",
        }
    ]
    match = "--match=(?P<key>[a-z])"
    assert main(["gt", "m=x,y", "-o", "m.parquet", match, "--overwrite"]) == 0
    assert pyarrow.parquet.read_table("m.parquet").column("key").to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "m.parquet"], "got none"),
        (["gt", "x,y"], "output.uri: required"),
        (["gt", "none", "x,y", "-o", "m.parquet"], "got nothing at"),
        (["gt", "x,y", "-o", "m.parquet", "--model-column=x"], "with source.model_column"),
        (["gt", "x,y", "-o", "m.parquet", "--unknown=1"], "unknown option --unknown=1"),
        (["gt", "x,y", "-o", "m.parquet", "--macth", "a"], "--macth; did you mean --match?"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(arguments, expected, folders, capfd):
    assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not (folders / "m.parquet").exists()


def test_a_store_that_is_away_is_a_fault(folders, capfd):
    assert main(["s3://bucket/list.csv", "-o", "m.parquet"]) == 1  # nobody listens there
    assert capfd.readouterr().err.startswith("fault: source.uri: s3://bucket/list.csv")
