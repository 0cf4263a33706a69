import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.manifests.config import MakeManifestConfig
from pipeline.manifests.make import make_manifest
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import open_store, write_whole
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import open_manifest


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., pa.Table]:
    """A function that makes a manifest, has scoring check it, and returns its rows.

    It takes the source's URI and settings, or sections of the settings.
    """

    def make(uri: Any = None, **settings: Any) -> pa.Table:
        output = tmp_path / "made" / "manifest.parquet"
        output.unlink(missing_ok=True)
        make_manifest(config_of(output, uri, **settings))
        open_manifest(ManifestConfig(uri=str(output)))
        return pa.parquet.read_table(output)

    return make


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that takes what `make` takes; returns the problems, after nothing was written."""

    def refused(uri: Any = None, **settings: Any) -> list[str]:
        output = tmp_path / "refused" / "manifest.parquet"
        with pytest.raises(ContractError) as caught:
            make_manifest(config_of(output, uri, **settings))
        assert not list(output.parent.glob("*"))
        assert all("\n" not in problem for problem in caught.value.problems)
        return caught.value.problems

    return refused


def config_of(output: Path, uri: Any, **settings: Any) -> MakeManifestConfig:
    sections = settings if uri is None else {"source": {"uri": str(uri)} | settings}
    return MakeManifestConfig.model_validate({"output": {"uri": str(output)}} | sections)


@pytest.fixture
def put() -> Callable[..., str]:
    """A function that writes files below a folder, whose content is their own path."""

    def put(folder: str | Path, *names: str) -> str:
        for name in names:
            write_whole(*open_store(f"{folder}/{name}"), name.encode())
        return str(folder)

    return put


@pytest.fixture
def write_tar() -> Callable[..., str]:
    """A function that writes a tar of files, given as names and contents."""

    def write_tar(path: Path, files: list[tuple[str, bytes]], mode: str = "w") -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return str(path)

    return write_tar
