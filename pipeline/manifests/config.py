"""Settings of making a manifest: one class per section of the YAML."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from pipeline.runs.schema import RESERVED_COLUMNS
from pipeline.runs.settings import Section, Uri

MANIFEST_COLUMNS = (
    "pair_id", "reference_uri", "reference_bytes", "distorted_uri", "distorted_bytes", "model",
)  # fmt: skip
"""Names that mean something in every manifest."""


class FoldersConfig(Section):
    """Folders of images whose files have the same names."""

    references: Uri | None = Field(
        None, description="Folder of the undistorted images: a local path or any fsspec URI."
    )
    candidates: tuple[Uri, ...] = Field(
        (),
        description="Folders of the images to judge, each as FOLDER or NAME=FOLDER. NAME, or else "
        "the folder's last part, is the model's name. ./a=b is a folder named a=b.",
    )
    match: str | None = Field(
        None,
        description="Regular expression with named groups, searched in each file's path inside its "
        "folder. Two files are a pair if all groups are equal; each group becomes a column. null: "
        "two files are a pair if their paths are equal without the suffix.",
    )

    frames_every_s: float | None = Field(
        None,
        ge=0.001,
        description="The files are videos, with the extra spips[video]: sample a frame of both at "
        "0 s and then every so many seconds, into PNG files beside the manifest. References and "
        "candidates can also be single files.",
    )

    @field_validator("match")
    @classmethod
    def _has_named_groups(cls, match: str | None) -> str | None:
        if match is None:
            return None
        try:
            groups = re.compile(match).groupindex
        except re.error as error:
            raise ValueError(f"expected a regular expression ({error})") from error
        if not groups:
            raise ValueError("expected named groups, such as (?P<name>[0-9]+)")
        taken = sorted({*MANIFEST_COLUMNS, *RESERVED_COLUMNS} & groups.keys())
        if taken:
            raise ValueError(f"expected other names of groups than {', '.join(taken)}")
        return match


class SourceConfig(Section):
    """A list or a data set that holds both images of each pair."""

    uri: Uri | None = Field(
        None,
        description="A list (.csv, .tsv, .jsonl, .ndjson), Parquet files, a folder that Hugging "
        "Face's save_to_disk wrote, or WebDataset tars: a file, a folder or a glob, as a local "
        "path or any fsspec URI. Relative paths of images begin at the folder of the file.",
    )
    reference_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the undistorted images: URIs, encoded bytes, or Hugging Face's "
        "images. null: the first of reference_uri, reference_bytes, reference, reference_image "
        "and reference_path.",
    )
    distorted_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the images to judge; null: the first of distorted_uri, "
        "distorted_bytes, distorted, distorted_image and distorted_path.",
    )
    pair_id_column: str | None = Field(
        None,
        min_length=1,
        description="Column with unique ids; null: pair_id, else id, else the path of the image to "
        "judge as the source gives it, without secrets, else the row's number. Of tars: pair_id, "
        "else the tar's name and the sample's.",
    )
    model_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the model's name, which is called model in the manifest.",
    )


class ManifestOutputConfig(Section):
    """Where the manifest is written."""

    uri: Uri = Field(description="A file named .parquet: a local path or any fsspec URI.")
    overwrite: bool = Field(False, description="Replace a file that exists.")

    @field_validator("uri")
    @classmethod
    def _is_parquet(cls, uri: str) -> str:
        if not uri.lower().endswith(".parquet"):
            raise ValueError("expected a name that ends in .parquet")
        return uri


class MakeManifestConfig(Section):
    """All settings of jobs/make_manifest.py."""

    folders: FoldersConfig = FoldersConfig()
    source: SourceConfig = SourceConfig()
    output: ManifestOutputConfig

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        folders, source = self.folders, self.source
        expected = (
            "expected two or more folders (folders.references, folders.candidates), or one list or "
            "data set (source.uri)"
        )
        if source.uri is not None and (folders.references is not None or folders.candidates):
            raise ValueError(f"{expected}, got both")
        if source.uri is None and folders.references is None and not folders.candidates:
            raise ValueError(f"{expected}, got none")
        if source.uri is None and (folders.references is None or not folders.candidates):
            missing = "candidates" if folders.references is not None else "references"
            raise ValueError(f"{expected}, got no folders.{missing}")
        for name in ("match", "frames_every_s"):
            if source.uri is not None and getattr(folders, name) is not None:
                raise ValueError(f"expected folders with folders.{name}, got source.uri")
        named = [name for name in type(source).model_fields if getattr(source, name) is not None]
        if source.uri is None and named:
            raise ValueError(f"expected source.uri with source.{named[0]}, got folders")
        return self
