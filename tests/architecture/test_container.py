"""The container image, as far as it can be told without a container engine."""

import re
import tomllib
from pathlib import Path

import yaml
from docker.utils.build import exclude_paths

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
COMMANDS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()


def commands_of(kind):
    return [line.removeprefix(f"{kind} ") for line in COMMANDS if line.startswith(f"{kind} ")]


def context():
    """The files that a build gets, by Docker's own reading of .dockerignore."""
    ignored = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return exclude_paths(str(REPOSITORY), ignored)


def test_the_build_gets_what_is_installed_and_nothing_else():
    got = {path for path in context() if (REPOSITORY / path).is_file()}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        folder = REPOSITORY / folders.get(package, package.replace(".", "/"))
        wanted = [path for path in folder.glob("*") if path.is_file()]
        assert wanted
        assert not {str(path.relative_to(REPOSITORY)) for path in wanted} - got
    assert {*project["project"]["license-files"], project["project"]["readme"]} <= got
    assert {"constraints.txt", "conf/nightly/nightly.sh"} <= got
    tops = {Path(path).parts[0] for path in got}
    assert not tops & {"tests", "docs", ".git", ".venv", "build"}
    assert not [path for path in got if "__pycache__" in path]


def test_the_base_image_has_the_python_that_the_project_needs():
    (base,) = commands_of("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-[a-z-]+", base)[1]  # no registry's host
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={version}"


def test_the_image_lies_where_kuberay_s_examples_look_for_it():
    assert commands_of("WORKDIR") == ["/opt/spips"]
    for name in ("rayjob", "raycronjob"):
        text = (REPOSITORY / f"conf/nightly/{name}.yaml").read_text()
        assert "cd /opt/spips && bash conf/nightly/nightly.sh" in text
        images = {
            line.split()[1] for line in text.splitlines() if line.strip().startswith("image:")
        }
        assert images == {"spips:cuda"}
        assert all(f"--tag {image} " in DOCKERFILE for image in images)
        assert yaml.safe_load(text)["kind"].lower() == name


def test_the_user_of_the_image_is_not_root():
    (user,) = commands_of("USER")
    assert user.isdecimal()
    assert any(
        f" --uid {user} " in line for line in commands_of("RUN") if line.startswith("useradd")
    )
