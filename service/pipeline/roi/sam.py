"""SAM with a box prompt: all of its proposals go to the mask rules.

Source: Kirillov et al., "Segment Anything", arXiv 2304.02643; the segment_anything package.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from schemas.recipe import RoiRecipe
from service.errors import PackageRefused, UsageError
from service.pipeline.checkpoint import UNREADABLE
from service.pipeline.roi.coarse_box import Box, CoarseBox
from service.pipeline.roi.finder import Prompt, Proposals
from service.pipeline.roi.mask_rules import Scene, frame_box
from service.pipeline.types import BgrImage


def load_sam(recipe: RoiRecipe, device: torch.device) -> Sam:
    """Return the SAM that a recipe names, with the weights of its checkpoint, in evaluation mode.

    The checkpoint is read as tensors only; no code in it can run.

    Raises:
        UsageError: there is no such file, or it holds no weights of that SAM.
        PackageRefused: its SHA-256 is not `sam_sha256`.
    """
    path = Path(recipe.sam_checkpoint)
    if not recipe.sam_checkpoint:
        raise UsageError("roi method sam: recipe.roi.sam_checkpoint is empty: it must name the checkpoint")
    if not path.is_file():
        raise UsageError(f"roi method sam: no checkpoint at {path}")
    if recipe.sam_sha256:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != recipe.sam_sha256.lower():
            raise PackageRefused(f"{path}: SHA-256 is {digest}, the recipe wants {recipe.sam_sha256}")
    model: Sam = sam_model_registry[recipe.sam_type]()
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a format that is none
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except UNREADABLE as exc:
        raise UsageError(f"{path} holds no weights of SAM {recipe.sam_type}") from exc
    return model.to(device).eval()


class SamSegmenter:
    """The segmenter for a GPU. The model is shared between threads, what it saw of a frame is not."""

    name = "sam"

    def __init__(self, model: Sam) -> None:
        self._model = model

    def look(self, bgr: BgrImage) -> Prompt:
        """See `Segmenter.look`: the image is embedded once, on a CUDA device in half precision."""
        predictor = SamPredictor(self._model)
        # Softmax and layer norm stay in single precision under autocast; the decoder, which is cheap, does altogether.
        with torch.autocast("cuda", torch.float16, enabled=self._model.device.type == "cuda"):
            predictor.set_image(bgr, "BGR")
        predictor.features = predictor.features.float()
        if not torch.isfinite(predictor.features).all():
            predictor.set_image(bgr, "BGR")  # beyond the range of half precision

        height, width = bgr.shape[:2]

        def propose(coarse: CoarseBox, box: Box) -> Proposals:
            masks, quality, _ = predictor.predict(box=np.array(box), multimask_output=True)
            scene = Scene(
                box=frame_box(box),
                core=frame_box(coarse.xyxy),
                frame=(0, 0, width, height),
                frame_area=float(width * height),
            )
            confidence = np.clip(quality, 0.0, 1.0).tolist()
            return Proposals(list(zip(masks, confidence, strict=True)), scene, lambda ruled: ruled)

        return propose
