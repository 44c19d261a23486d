"""A recipe: every setting that shapes a score. It is frozen into the model package that was trained with it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from schemas.base import Value

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class RoiMethod(StrEnum):
    """How the canister is cut out of the frame."""

    GRABCUT = "grabcut"
    SAM = "sam"
    FIXED = "fixed"
    NONE = "none"


class RoiRecipe(Value):
    """Region of interest. Fractions refer to the prompt box or to the frame, as each comment says."""

    method: RoiMethod = RoiMethod.GRABCUT
    work_side: Positive = Field(default=320, description="longer side of the reduced frame the ROI is found on, px")
    pad_frac: Fraction = Field(default=0.10, description="padding of the coarse box, of its sides")
    fg_inset: Fraction = Field(default=0.30, description="inset of the box that is taken as surely foreground")
    vbridge_frac: Fraction = Field(default=0.12, description="height of the vertical closing, of the box height")
    area_frac_min: Fraction = Field(default=0.02, description="smallest mask, of the frame")
    area_frac_max: Fraction = Field(default=0.80, description="largest mask, of the frame")
    aspect_min: float = Field(default=0.5, gt=0, description="smallest height / width of the mask's bounds")
    aspect_max: float = Field(default=8.0, gt=0, description="largest height / width of the mask's bounds")
    iterations: Positive = Field(default=4, description="GrabCut iterations")
    polygon: tuple[tuple[Fraction, Fraction], ...] = Field(
        default=(), description="method fixed: corners as fractions of the frame's width and height"
    )
    sam_type: str = Field(default="vit_b", pattern="^vit_[blh]$", description="method sam: which SAM")
    sam_checkpoint: str = Field(default="", description="method sam: path of the checkpoint")
    sam_sha256: str = Field(default="", description="method sam: digest the checkpoint must have; empty: not checked")


class NormalizeRecipe(Value):
    """Photometric normalisation of the cropped ROI."""

    side: Positive = Field(default=640, description="side of the square that the ROI is padded and resized to, px")
    gray_world: bool = True
    clahe_clip: float = Field(default=2.0, ge=0, description="CLAHE clip limit on L; 0 turns CLAHE off")
    clahe_tiles: Positive = 8


class EmbedRecipe(Value):
    """Patch embedding."""

    embedder: str = Field(
        default="starter", pattern=r"^(starter|timm:[A-Za-z0-9_.\-/]+)$", description="starter, or timm:BACKBONE"
    )
    weights: str = Field(default="", description="timm: local checkpoint; empty: the hub, or the package's own")
    input_side: Positive | None = Field(default=None, description="side of the network's input, px; None: its own")
    layers: tuple[int, ...] = Field(default=(), description="timm: feature levels to join; empty: the last one")
    pool: Positive = Field(default=1, description="neighbourhood pooling of patch features (PatchCore), odd; 1 is off")


class MemoryRecipe(Value):
    """Memory bank."""

    density_k: Positive = Field(default=8, description="neighbours of the k-NN density")
    density_keep: Fraction = Field(default=0.85, description="share of the densest patches kept as pseudo-OK")
    coreset_frac: Fraction = Field(default=0.02, description="share of patches kept by farthest-point selection")
    coreset_max: Positive = Field(default=20_000, description="largest bank, vectors")
    reservoir: Positive = Field(default=100_000, description="largest number of patches held while training")
    seed: int = 0


class ScoreStatistic(StrEnum):
    """How patch distances become one image score."""

    P95 = "p95"
    P98 = "p98"
    P99 = "p99"
    MAX = "max"
    TOP1_MEAN = "top1_mean"


class ScoreRecipe(Value):
    """Image score and decision."""

    statistic: ScoreStatistic = ScoreStatistic.P95
    uncertain_band: Fraction = Field(default=0.05, description="half width of the uncertain band, of tau")


class BoxRecipe(Value):
    """Damage boxes from the anomaly map."""

    threshold_ratio: float = Field(
        default=1.0, gt=0, description="a patch counts at or above this multiple of patch_tau"
    )
    blur_sigma: float = Field(default=1.0, ge=0, description="blur of the anomaly map, in patches")
    min_area_frac: Fraction = Field(default=0.0005, description="smallest blob, of the ROI's area")
    max_aspect: float = Field(default=30.0, gt=0, description="longest blob, long side / short side")
    merge_gap_frac: Fraction = Field(default=0.02, description="blobs nearer than this share of the ROI side are one")
    max_boxes: Positive = 32


class Recipe(Value):
    """Everything between a decoded frame and its score."""

    roi: RoiRecipe = RoiRecipe()
    normalize: NormalizeRecipe = NormalizeRecipe()
    embed: EmbedRecipe = EmbedRecipe()
    memory: MemoryRecipe = MemoryRecipe()
    score: ScoreRecipe = ScoreRecipe()
    boxes: BoxRecipe = BoxRecipe()
