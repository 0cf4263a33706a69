import pyarrow as pa
import pytest

from pipeline.manifests.columns import arrange, choose_columns
from pipeline.manifests.config import SourceConfig
from pipeline.manifests.source import Source
from pipeline.runs.errors import ContractError


def arranged(*tables: pa.Table, **config) -> pa.Table:
    def read(columns):
        for table in tables:
            yield table.select(columns)

    source = Source("list.csv", "/data", tables[0].schema, read)
    columns = choose_columns(SourceConfig(**config), source.schema, source.uri)
    return pa.concat_tables(arrange(source, columns))


def problems_of(*tables: pa.Table, **config) -> list[str]:
    with pytest.raises(ContractError) as caught:
        arranged(*tables, **config)
    return caught.value.problems


@pytest.mark.parametrize("ending", ["_uri", "", "_image", "_path"])
def test_names_of_images_are_recognised(ending):
    table = pa.table({f"distorted{ending}": ["d"], f"reference{ending}": ["r"], "pair_id": ["1"]})
    assert arranged(table).to_pylist() == [
        {"pair_id": "1", "reference_uri": "/data/r", "distorted_uri": "/data/d"}
    ]


def test_settings_choose_columns_and_the_model_is_called_model():
    table = pa.table({"gt": ["r"], "out": [b"d"], "key": [1], "net": ["a"], "reference": ["x"]})
    names = {"reference": "gt", "distorted": "out", "pair_id": "key", "model": "net"}
    rows = arranged(table, **{f"{role}_column": name for role, name in names.items()})
    assert rows.to_pylist() == [
        {"pair_id": "1", "reference_uri": "/data/r", "distorted_bytes": b"d", "model": "a",
         "reference": "x"}
    ]  # fmt: skip


def test_without_ids_a_row_has_its_path_s_or_its_number():
    table = pa.table({"reference": ["r", "r"], "distorted": ["a/0.png", "a/1.png"]})
    assert arranged(table).column("pair_id").to_pylist() == ["a/0.png", "a/1.png"]
    table = table.append_column("id", pa.array(["same", "same"]))
    ids = arranged(table, pair_id_column="distorted").column("pair_id").to_pylist()
    assert ids == ["a/0.png", "a/1.png"]
    table = pa.table({"reference": ["r"], "distorted": [b"d"]})
    ids = arranged(table, table).column("pair_id").to_pylist()
    assert ids == ["000000000", "000000001"]


def test_types_that_scoring_does_not_read_become_ones_that_it_reads():
    table = pa.table(
        {
            "id": pa.array(["1"], pa.large_string()),
            "reference": pa.array(["r"], pa.string_view()),
            "distorted": pa.array([b"d"], pa.binary_view()),
            "model": pa.array(["a"]).dictionary_encode(),
            "nothing": pa.nulls(1),
            "uuid": pa.array([b"0" * 16], pa.uuid()),
        }
    )
    types = {field.name: field.type for field in arranged(table).schema}
    assert types == {
        "pair_id": pa.string(),
        "reference_uri": pa.string(),
        "distorted_bytes": pa.binary(),
        "model": pa.string(),
        "nothing": pa.string(),
        "uuid": pa.binary(16),
    }


def test_other_images_are_left_out():
    table = pa.table({"reference": [b"r"], "distorted": [b"d"], "mask": [b"m"], "n": [1]})
    assert arranged(table).column_names == ["pair_id", "reference_bytes", "distorted_bytes", "n"]
    assert choose_columns(SourceConfig(), table.schema, "").left_out == ("mask",)


@pytest.mark.parametrize(
    ("columns", "config", "expected"),
    [
        ({"a": ["x"]}, {}, "source.reference_column: expected a column named reference_uri, "),
        (
            {"reference": ["x"], "distorted": ["y"], "prompt_id": ["z"]},
            {"pair_id_column": "promt_id"},
            "did you mean prompt_id?",
        ),
        ({"a": ["x"]}, {}, "source.distorted_column: expected a column named distorted_uri, "),
        ({}, {"reference_column": "gt"}, "expected a column 'gt', got reference, distorted at"),
        ({"id": [0.5]}, {}, "expected 'id' to be string or integer, got double"),
        ({}, {"distorted_column": "reference"}, "another column than the references'"),
        ({"reference_bytes": ["x"], "reference_uri": ["y"]}, {}, "'reference_bytes' would be"),
        ({"net": ["a"], "model": ["b"]}, {"model_column": "net"}, "column 'model' would be taken"),
        ({"status": ["ok"], "ssim": [1.0]}, {}, "no columns of results, got status, ssim"),
        ({"reference": [1]}, {}, "expected 'reference' to be URIs"),
        ({"id": ["1", None][1:]}, {}, "got no 'id' in row 0"),
        ({"id": [""]}, {}, "got no 'id' in row 0"),
    ],
)
def test_columns_that_make_no_manifest_are_refused(columns, config, expected):
    images = {} if "a" in columns else {"reference": ["r"], "distorted": ["d"]}
    problems = problems_of(pa.table(images | columns), **config)
    assert any(expected in problem for problem in problems)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("Reference", "distorted", "reference_id"), "; did you mean Reference?"),
        (("reference ", "distorted", "reference_id"), "; did you mean 'reference '?"),
        (("refrence", "distorted"), "; did you mean refrence?"),
        (("reference_uri", " Distorted"), "; did you mean ' Distorted'?"),
        (("reference_uri", "other"), ""),
    ],
)
def test_a_column_that_is_not_recognised_is_suggested(names, hint):
    (problem,) = problems_of(pa.table({name: ["x"] for name in names}))
    assert problem.endswith(f"or this setting, got {', '.join(names)} at list.csv{hint}")


def test_an_id_made_of_a_uri_holds_none_of_its_secrets():
    uris = ["https://me:topsecret@host/a.png", "https://host/b.png?sig=topsecret"]
    rows = arranged(pa.table({"reference": ["r", "r"], "distorted": uris}))
    assert rows["distorted_uri"].to_pylist() == uris
    assert rows["pair_id"].to_pylist() == ["https://***@host/a.png", "https://host/b.png?sig=***"]
