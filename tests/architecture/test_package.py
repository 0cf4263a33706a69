"""What `pip install .` installs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from jobs.config import find_examples

REPOSITORY = Path(__file__).parents[2]


def test_the_wheel_has_every_settings_file_at_the_place_that_the_help_names(tmp_path):
    # A copy, since a build writes into the tree.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    ignored = shutil.ignore_patterns("*.safetensors", "__pycache__")
    for name in ("conf", "jobs", "pipeline", "spips_core"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = {name.removeprefix("jobs/") for name in archive.namelist()}
    files = [path for path in (REPOSITORY / "conf").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not {str(path.relative_to(REPOSITORY)) for path in files} - names
    code = "from jobs.config import find_examples as found; print(found(), end='')"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=tmp_path / "site", text=True) == str(
        tmp_path / "site/jobs/conf"
    )
    assert find_examples() == REPOSITORY / "conf"
