"""What a model package says about itself: `model.json`."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from schemas.base import UtcDatetime, Value
from schemas.messages import Sha256
from schemas.recipe import MemoryRecipe, Recipe
from service.model.calibration import Calibration
from service.pipeline.patch_scores import RINGS, Rim

PIPELINE_VERSION = 5
"""Rises with every change of the ROI, normalisation or scoring code that moves a score: older packages are refused."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ModelVersion = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")]


class EmbedderRecord(Value):
    """The embedder that made the vectors; `digest` covers its code version and its weights."""

    name: str
    dim: Annotated[int, Field(gt=0)]
    digest: Sha256


class TrainingFrame(Value):
    """One OK frame: its name below the training directory, the SHA-256 of its file, how its ROI was found."""

    name: str
    sha256: Sha256
    roi: str


class Duplicate(Value):
    """A frame left out because it shows the very pixels of another."""

    name: str
    same_as: str


class TrainingRecord(Value):
    """What the bank was made from. mixed: damaged frames may be among them."""

    frames: tuple[TrainingFrame, ...]
    duplicates: tuple[Duplicate, ...]
    mixed: bool
    patches: int = Field(description="patches seen in all frames")
    patches_held: int = Field(description="patches the bank was chosen from: all, or a uniform sample of them")
    bank_size: int


class GoldenFrame(Value):
    """A frame that travels with the package and the score it must get everywhere."""

    file: str
    name: str
    score: float


class Metrics(Value):
    """What is known of the model's quality from its own OK frames: those held back, at `tau`; no scores without any."""

    held_back_frames: int
    held_back_rejected: int
    score_median: float | None
    score_max: float | None


class ModelManifest(Value):
    """Everything about a model package but the vectors and the golden frames.

    tau: image threshold. patch_tau: score that a patch must reach to appear in a box. rim: what evens out the distances
    at the part's rim, ring by ring. version: 0 until the registry has given one. parent: id of the package that this
    one was made from: with another tau, extended, or imported.
    """

    format: Literal["cangate/model/1"] = "cangate/model/1"
    name: ModelName
    version: ModelVersion = "0"
    created_at: UtcDatetime
    pipeline_version: int = PIPELINE_VERSION
    libraries: dict[str, str]
    recipe: Recipe
    embedder: EmbedderRecord
    tau: Annotated[float, Field(gt=0)]
    patch_tau: Annotated[float, Field(gt=0)]
    rim: tuple[Annotated[float, Field(gt=0)], ...] = ()
    calibration: Calibration
    training: TrainingRecord
    metrics: Metrics
    golden: tuple[GoldenFrame, ...]
    parent: Sha256 | None = None

    @field_validator("rim")
    @classmethod
    def _has_every_ring(cls, rim: Rim) -> Rim:
        if len(rim) not in (0, RINGS):
            raise ValueError(f"rim has {RINGS} levels or none, not {len(rim)}")
        return rim

    @property
    def doubtful(self) -> float:
        """Share of the training frames that may be damaged."""
        return doubtful_share(self.recipe.memory, mixed=self.training.mixed)


def doubtful_share(memory: MemoryRecipe, *, mixed: bool) -> float:
    """Return the share of the frames of a training set, mixed or not, that may be damaged."""
    return 1 - memory.density_keep if mixed else 0.0


def library_versions() -> dict[str, str]:
    """Return the versions of what computes a score."""
    names = ("cangate", "numpy", "opencv-python-headless", "pillow", "timm", "torch", "torchvision")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
