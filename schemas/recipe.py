"""A recipe: every setting that shapes a score. It is frozen into the model package that was trained with it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Value

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


PRESETS: dict[str, dict[str, Any]] = {
    "dinov2-vitb14": {"embedder": "timm:vit_base_patch14_dinov2.lvd142m", "input_side": 518},
    "dinov2-vits14": {"embedder": "timm:vit_small_patch14_dinov2.lvd142m", "input_side": 518},
}
"""Short names of embedders, spelled out before anything else reads them; a key that is given beside the name stays.
Source: Oquab et al., "DINOv2", arXiv 2304.07193, whose networks were last trained at 518 px, 37 x 37 patches."""


class RoiMethod(StrEnum):
    """How the canister is cut out of the frame."""

    GRABCUT = "grabcut"
    SAM = "sam"
    FIXED = "fixed"
    NONE = "none"


class RoiRecipe(Value):
    """Region of interest: methods grabcut and sam unless a setting says otherwise."""

    method: RoiMethod = Field(
        default=RoiMethod.GRABCUT,
        description="grabcut, sam, fixed (a polygon), none (the whole frame); what shows nothing but noise is no part",
    )
    work_side: Annotated[int, Field(ge=64)] = Field(
        default=160, description="method grabcut: longer side of the reduced crop around the box, px"
    )
    iterations: Positive = Field(default=3, description="method grabcut: iterations")
    prominence_min: Fraction = Field(
        default=0.1, description="how much the best region must look like one upright part, 0..1; below: no ROI"
    )
    pad_frac: Fraction = Field(default=0.10, description="padding of the coarse box, of its width and height")
    fg_inset: Annotated[float, Field(ge=0.05, le=0.45)] = Field(
        default=0.30, description="inset of the box; what is within is surely the part"
    )
    bands_frac: Fraction = Field(
        default=0.34, description="width of the central bands that the part must cross, of the box's width and height"
    )
    vbridge_frac: Fraction = Field(default=0.12, description="widest vertical gap that is bridged, of the box's height")
    spur_frac: Fraction = Field(
        default=0.03, description="lowest piece that is kept beside the part, of the box's height"
    )
    hole_frac: Fraction = Field(default=1.0, description="largest hole that is filled, of the filled mask's area")
    scrap_frac: Fraction = Field(default=0.02, description="smallest piece that is kept, of the largest piece's area")
    border_frac: Fraction = Field(
        default=0.002, description="margin along the frame's border that is never part of the mask, of its longer side"
    )
    area_frac_min: Fraction = Field(default=0.02, description="smallest mask, of the frame's area")
    area_frac_max: Fraction = Field(default=0.80, description="largest mask, of the frame's area")
    aspect_min: float = Field(default=0.5, gt=0, description="smallest height / width of the mask's bounds")
    aspect_max: float = Field(default=8.0, gt=0, description="largest height / width of the mask's bounds")
    retries: Annotated[int, Field(ge=0, le=5)] = Field(
        default=2, description="how often a wider box is tried where one cuts the part or shows no edge"
    )
    growth_frac: Fraction = Field(default=0.25, description="how far a side of the box moves out then, of the box")
    penalty_max: float = Field(default=1.0, gt=0, description="worst sum of penalties that a mask may have")
    polygon: tuple[tuple[Fraction, Fraction], ...] = Field(
        default=(), description="method fixed: at least three corners, as fractions of the frame's width and height"
    )
    sam_type: str = Field(default="vit_b", pattern="^vit_[blh]$", description="method sam: which SAM")
    sam_checkpoint: str = Field(default="", description="method sam: path of the checkpoint")
    sam_sha256: str = Field(
        default="", pattern="^([0-9a-fA-F]{64})?$", description="method sam: digest of the checkpoint; empty: unchecked"
    )


class NormalizeRecipe(Value):
    """Photometric normalisation of the cropped ROI."""

    side: Positive = Field(default=640, description="side of the square that the ROI is padded and resized to, px")
    gray_world: bool = True
    clahe_clip: float = Field(default=3.0, ge=0, description="CLAHE clip limit on L; 0 turns CLAHE off")
    clahe_tiles: Positive = 8


_EMBEDDER = re.compile(r"starter|filters|timm:[A-Za-z0-9_.\-/]+")


class EmbedRecipe(Value):
    """Patch embedding."""

    embedder: str = Field(
        default="starter",
        description=f"starter, filters, timm:BACKBONE, {' or '.join(PRESETS)}",
    )
    weights: str = Field(
        default="", description="local checkpoint; empty: of timm the hub's, of the starter those that ship with it"
    )
    pack_weights: bool = Field(
        default=False, description="the package carries the weights, and needs neither hub nor checkpoint"
    )
    input_side: Positive | None = Field(default=None, description="side of the network's input, px; None: its own")
    layers: tuple[int, ...] = Field(default=(), description="timm: feature levels to join; empty: the last one")
    pool: Positive = Field(
        default=1, description="timm: neighbourhood pooling of patch features (PatchCore), odd; 1 is off"
    )
    position_weight: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.0,
        description="how much a patch's place on the part counts in its distance, where parts stand alike; 0: not",
    )

    @model_validator(mode="before")
    @classmethod
    def _spell_out_a_preset(cls, given: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever was given
        preset = PRESETS.get(str(given.get("embedder"))) if isinstance(given, dict) else None
        if preset is None:
            return given
        stated = {key: value for key, value in given.items() if key != "embedder" and value is not None}
        return {**preset, **stated}

    @field_validator("embedder")
    @classmethod
    def _is_known(cls, embedder: str) -> str:
        if not _EMBEDDER.fullmatch(embedder):
            raise ValueError(f"must be starter, filters, timm:BACKBONE, {' or '.join(PRESETS)}, not {embedder!r}")
        return embedder

    @model_validator(mode="after")
    def _fits_the_embedder(self) -> Self:
        if self.pool % 2 == 0:
            raise ValueError(f"pool is odd, not {self.pool}")
        if not self.embedder.startswith("timm:") and (self.layers or self.pool != 1):
            raise ValueError(f"layers and pool belong to timm embedders; {self.embedder} has its own")
        if self.embedder == "filters" and (self.weights or self.pack_weights):
            raise ValueError("filters have no weights")
        return self


class MemoryRecipe(Value):
    """Memory bank."""

    density_k: Positive = Field(default=8, description="neighbours of the k-NN density")
    density_keep: Fraction = Field(
        default=0.85, description="share of frames and patches believed to be OK where damaged ones may be among them"
    )
    coreset_frac: Fraction = Field(default=0.02, description="share of patches kept by farthest-point selection")
    coreset_min: Positive = Field(
        default=3_000, description="smallest bank, vectors, where there are as many patches: it costs nothing below"
    )
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
    """Patch scores, image score and decision."""

    rim_evenness: Fraction = Field(
        default=0.5,
        description="how far the larger distances that sound parts have at their rim are evened out; 0: not",
    )
    neighbourhood: Positive = Field(
        default=3, description="side of the square of patches whose mean a patch's score is, odd; 1 is off"
    )
    statistic: ScoreStatistic = ScoreStatistic.MAX
    uncertain_band: Fraction = Field(default=0.05, description="half width of the uncertain band, of tau")

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_middle(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"neighbourhood is odd, not {side}")
        return side


class BoxRecipe(Value):
    """Damage boxes from the anomaly map."""

    extent_ratio: Fraction = Field(
        default=0.6, description="a box extends down to this share of patch_tau around a patch that reaches it"
    )
    peak_ratio: Fraction = Field(default=0.6, description="and no lower than this share of its own highest place")
    blur_sigma: float = Field(default=0.5, ge=0, description="blur of the anomaly map, in patches")
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
