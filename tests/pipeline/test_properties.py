"""Any manifest, settings file or URI is either accepted correctly or refused clearly."""

import argparse
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from jobs.config import load_config
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import open_fs
from pipeline.runs.uris import is_allowed, redact, redact_as
from pipeline.scoring.config import ManifestConfig, ScoreManifestConfig
from pipeline.scoring.manifest.opening import open_manifest


def check_lines(problems: list[str]) -> None:
    assert problems
    assert all(problem and "\n" not in problem for problem in problems)


lasting = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """An allowed folder and a forbidden one, with links between them."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("allowed/in", "allowed2", "secret"):
        (root / name).mkdir(parents=True)
    (root / "allowed" / "out").symlink_to(root / "secret")
    (root / "secret" / "back").symlink_to(root / "allowed")
    return root


PARTS = st.lists(
    st.sampled_from(["in", "out", "back", "secret", "allowed", "allowed2", "..", ".", "", "%2e%2e",
                     "..%2f", "a.png", "~", "\\", " ", "\x00", "é", "in\n"]), max_size=8,
)  # fmt: skip


@lasting
@given(
    PARTS,
    st.sampled_from(
        [
            "",
            "file://",
            "local://",
            "FILE://",
            "file:",
            "file://localhost",
            "file://LocalHost",
            "file://host",
            "file:///",
        ]
    ),
)
def test_an_allowed_local_uri_opens_nothing_outside(tree, parts, scheme):
    uri = scheme + "/".join([str(tree / "allowed"), *parts])
    if is_allowed(uri, [str(tree / "allowed")]):
        _, opened = open_fs(uri)
        real = os.path.realpath(opened) + "/"
        assert real.startswith(f"{tree}/allowed/")


HOST = st.sampled_from(["host", "evil", "host:80", "host@evil", "u:p@host", "evil#host",
                        "host.evil", "host\\@evil", "host%2f", "HOST"])  # fmt: skip
PATH = st.lists(
    st.sampled_from(["pub", "..", "%2e%2e", "%2E.", ".", "", "a", "%2f", "..\\",
                                 "\t..", ".\t.", "%252e%252e", "?x=/pub/", "#", ";"]), max_size=6,
)  # fmt: skip


@lasting
@given(st.sampled_from(["https", "http", "HTTPS"]), HOST, PATH)
def test_an_allowed_web_uri_stays_on_its_host_and_in_its_folder(scheme, host, parts):
    uri = f"{scheme}://{host}/" + "/".join(parts)
    if is_allowed(uri, ["https://host/pub"]):
        asked = URL(uri)
        assert (asked.scheme, asked.host, asked.user) == ("https", "host", None)
        assert asked.path.startswith("/pub")
        assert ".." not in asked.path.split("/")


TEXT = st.text(alphabet="abcXYZ019-_.~+", min_size=6, max_size=20).map(lambda text: f"s3cr{text}t")


@lasting
@given(
    TEXT, TEXT, st.sampled_from(["https", "s3", "gs", "http"]), st.sampled_from(["", "'", ")", ","])
)
def test_no_secret_of_a_uri_is_shown(password, signature, scheme, after):
    message = f"at '{scheme}://user:{password}@host/a.png?X-Sig={signature}&v=2{after} again"
    shown = redact(message)
    assert password not in shown
    assert signature not in shown
    assert "host/a.png" in shown


@lasting
@given(TEXT, TEXT, st.sampled_from(["{}", "no /a?X-Sig={}", "%3FX-Sig%3D{}%26", "'{}'"]))
def test_no_secret_of_a_uri_is_shown_in_its_server_s_answer(password, signature, message):
    uri = f"https://user:{password}@host/a.png?v=2&X-Sig={signature}&Expires=9"
    for secret in (password, signature):
        shown = redact_as(message.format(secret) + " status 92", uri)
        assert secret not in shown
        assert shown.endswith(" status 92")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from(
    [
        *ScoreManifestConfig.model_fields,
        "uri",
        "max_bytes",
        "resize",
        "run_id",
        "checkpoint",
        "precision",
        "scorers",
        "allowed_uri_prefixes",
        "other",
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@lasting
@given(st.dictionaries(NAMES, VALUES, max_size=6) | VALUES)
def test_settings_of_any_shape_are_accepted_or_refused_line_by_line(tmp_path, content):
    import yaml

    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        load_config(ScoreManifestConfig, argparse.ArgumentParser(), [f"--config={path}"])
    except ContractError as error:
        check_lines(error.problems)


@lasting
@given(st.binary(max_size=200))
def test_a_settings_file_of_any_bytes_is_refused_with_a_line(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ContractError):
        load_config(ScoreManifestConfig, argparse.ArgumentParser(), [f"--config={path}"])


COLUMNS = [
    "pair_id",
    "reference_uri",
    "distorted_uri",
    "reference_bytes",
    "status",
    "note",
    "Ünïcode",
]
CELLS = {
    pa.string(): st.none() | st.text(max_size=8),
    pa.binary(): st.none() | st.binary(max_size=8),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.list_(pa.float32()): st.lists(st.floats(width=32), max_size=2),
}


@st.composite
def tables(draw) -> pa.Table:
    num_rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(COLUMNS), unique=True, min_size=1))
    if draw(st.booleans()):  # half of them nearly valid
        names = list(dict.fromkeys([*COLUMNS[:3], *names]))
    arrays = []
    for name in names:
        type_ = pa.string() if name in COLUMNS[:3] else draw(st.sampled_from(list(CELLS)))
        cells = st.lists(CELLS[type_], min_size=num_rows, max_size=num_rows)
        arrays.append(pa.array(draw(cells), type_))
    return pa.table(arrays, names=names)


@lasting
@given(st.lists(tables(), min_size=1, max_size=3))
def test_a_manifest_of_any_tables_is_counted_correctly_or_refused(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("manifest")
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet")
    try:
        manifest = open_manifest(ManifestConfig(uri=str(folder)))
    except ContractError as error:
        check_lines(error.problems)
        return
    ids = [id_ for part in parts for id_ in part["pair_id"].to_pylist()]
    assert manifest.num_rows == len(ids) == len(set(ids)) == len(manifest.id_hashes) > 0
    assert None not in ids
    assert all(set(part.column_names) == set(manifest.schema.names) for part in parts)
    assert sorted(manifest.rows.to_table()["pair_id"].to_pylist()) == sorted(ids)


@lasting
@given(st.binary(max_size=300), st.booleans())
def test_a_manifest_of_any_bytes_is_refused_with_a_line(tmp_path, content, framed):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1" + content + b"PAR1" if framed else content)
    with pytest.raises(ContractError) as caught:
        open_manifest(ManifestConfig(uri=str(path)))
    check_lines(caught.value.problems)
