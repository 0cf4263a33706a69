import pyarrow as pa
import pytest

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import open_manifest
from pipeline.scoring.manifest.promotion import promote
from tests.pipeline.scoring.sources import HUGGING_FACE, rows_of, save

TEXT, NUMBERS = pa.string(), pa.dictionary(pa.int8(), pa.int64())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int8(), pa.int32(), pa.int32()),
        (TEXT, pa.large_string(), pa.large_string()),
        (pa.binary(), pa.large_binary(), pa.large_binary()),
        (pa.null(), pa.list_(TEXT), pa.list_(TEXT)),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.dictionary(pa.int8(), TEXT), pa.dictionary(pa.int32(), TEXT),
         pa.dictionary(pa.int32(), TEXT)),
        (pa.dictionary(pa.int8(), TEXT), TEXT, TEXT),
        (pa.dictionary(pa.int8(), TEXT), pa.large_string(), pa.large_string()),
        (pa.list_(TEXT), pa.list_(pa.large_string()), pa.list_(pa.large_string())),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.null()), ("b", TEXT)]),
         pa.struct([("a", pa.int64()), ("b", TEXT)])),
        (TEXT, pa.int64(), None),
        (TEXT, pa.binary(), None),  # Arrow would take URIs for images
        (pa.bool_(), pa.int64(), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
    ],
)  # fmt: skip
def test_types_are_promoted_as_arrow_does_but_for_texts_and_bytes(one, other, expected):
    assert promote(one, other) == promote(other, one) == expected


@pytest.mark.parametrize(
    ("number", "other", "expected"),
    [
        (2**53 + 1, 0.5, "double can hold"),
        (2**63, -1, "int64 can hold"),
    ],
)
def test_a_value_that_the_promoted_type_cannot_hold_is_refused(tmp_path, number, other, expected):
    level = pa.array([number], pa.uint64())
    uri = save(tmp_path / "m", a=rows_of("a", level=[other]), b=rows_of("b", level=level))
    with pytest.raises(ContractError) as caught:
        open_manifest(ManifestConfig(uri=uri))
    (problem,) = caught.value.problems
    assert f"manifest: expected column 'level' with values that {expected}" in problem
    assert f"got others in {uri}/b.parquet: Integer value {number}" in problem


def test_views_become_plain_also_inside_structs_and_lists(tmp_path):
    views = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])
    image = {"bytes": b"png", "path": None}
    rows = rows_of("a", image=pa.array([image], views), text=pa.array(["x"], pa.string_view()),
                   texts=pa.array([["x"]], pa.list_(pa.string_view())))  # fmt: skip
    plain = rows_of("b", image=pa.array([image], HUGGING_FACE), text=["x"], texts=[["x"]])
    manifest = open_manifest(ManifestConfig(uri=save(tmp_path / "m", a=rows, b=plain)))
    got = manifest.rows.to_table().select(["image", "text", "texts"])
    assert got.to_pylist() == [{"image": image, "text": "x", "texts": ["x"]}] * 2
    assert manifest.schema.field("image").type == HUGGING_FACE


def test_ids_of_different_types_are_still_counted_and_compared(tmp_path):
    large = rows_of("bc").set_column(0, "pair_id", pa.array(["b", "c"], pa.large_string()))
    uri = save(tmp_path / "m", a=rows_of("ab"), b=large)
    with pytest.raises(ContractError, match="got 1 more than once: 'b'"):
        open_manifest(ManifestConfig(uri=uri))
    assert open_manifest(ManifestConfig(uri=save(tmp_path / "n", a=large))).num_rows == 2
