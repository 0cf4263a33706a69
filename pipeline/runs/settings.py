"""What all settings classes share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Uri = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """One section of a YAML file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
