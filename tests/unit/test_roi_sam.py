"""SAM: loading a checkpoint, and its proposals through the mask rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from schemas.recipe import RoiMethod, RoiRecipe
from service.errors import PackageRefused, RoiNotFound, UsageError
from service.pipeline.roi import build_roi_finder
from service.pipeline.roi.coarse_box import pad_box, survey
from service.pipeline.roi.finder import PromptedFinder
from service.pipeline.roi.sam import SamSegmenter, load_sam
from service.pipeline.types import BgrImage
from tests.support.checkpoints import NO_CHECKPOINTS

CPU = torch.device("cpu")


def tiny_sam() -> Sam:
    """Return a SAM of the real build, small enough for a test, with random weights."""
    torch.manual_seed(0)
    channels, side, patch = 32, 128, 16
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=32,
            depth=2,
            num_heads=2,
            out_chans=channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        ),
        prompt_encoder=PromptEncoder(channels, (side // patch, side // patch), (side, side), 16),
        mask_decoder=MaskDecoder(
            transformer_dim=channels,
            transformer=TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=2, mlp_dim=64),
            num_multimask_outputs=3,
            iou_head_depth=2,
            iou_head_hidden_dim=32,
        ),
    ).eval()


def frame_with_part() -> BgrImage:
    """Return a frame with a dark upright block, 60 x 150 px, on a light table."""
    frame = np.full((240, 320, 3), 200, np.uint8)
    cv2.rectangle(frame, (130, 50), (189, 199), (70, 80, 90), cv2.FILLED)
    return frame


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of vit_b with the right shapes and random weights; removed again, it is large."""
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_random.pth"
    with torch.no_grad():
        torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    yield path
    path.unlink()


def test_load_sam_reads_a_checkpoint_and_checks_its_digest(checkpoint: Path) -> None:
    """The right digest loads the very weights of the file; another one is refused by name."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recipe = RoiRecipe(method=RoiMethod.SAM, sam_checkpoint=str(checkpoint), sam_sha256=digest.upper())
    model = load_sam(recipe, CPU)
    saved = torch.load(checkpoint, weights_only=True, mmap=True)
    assert not model.training
    assert torch.equal(model.state_dict()["mask_decoder.iou_token.weight"], saved["mask_decoder.iou_token.weight"])
    wrong = recipe.model_copy(update={"sam_sha256": "0" * 64})
    with pytest.raises(PackageRefused, match=checkpoint.name):
        build_roi_finder(wrong, CPU)


def test_load_sam_names_a_missing_checkpoint(tmp_path: Path) -> None:
    """A path that is not there, or none at all, is one clear line."""
    with pytest.raises(UsageError, match=r"absent\.pth"):
        build_roi_finder(RoiRecipe(method=RoiMethod.SAM, sam_checkpoint=str(tmp_path / "absent.pth")))
    with pytest.raises(UsageError, match=r"^roi method sam: recipe\.roi\.sam_checkpoint is empty"):
        build_roi_finder(RoiRecipe(method=RoiMethod.SAM))


@pytest.mark.parametrize("content", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_load_sam_refuses_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    """Neither an empty file nor text is taken for weights, and no code in a file is run."""
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no weights of SAM vit_b"):
        load_sam(RoiRecipe(method=RoiMethod.SAM, sam_checkpoint=str(path)), CPU)


def test_load_sam_refuses_weights_of_another_network(tmp_path: Path) -> None:
    """Shapes that do not fit are no SAM."""
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(UsageError, match="no weights of SAM vit_b"):
        load_sam(RoiRecipe(method=RoiMethod.SAM, sam_checkpoint=str(path)), CPU)


def test_segmenter_hands_over_every_proposal() -> None:
    """All three masks of the box prompt come over the full frame, each with SAM's own confidence."""
    frame, recipe = frame_with_part(), RoiRecipe()
    coarse = survey(frame, recipe).boxes[0]
    box = pad_box(coarse.xyxy, 0.1, 0.1, (320, 240))
    proposals = SamSegmenter(tiny_sam()).look(frame)(coarse, box)
    assert [(mask.shape, mask.dtype.name) for mask, _ in proposals.masks] == [((240, 320), "bool")] * 3
    assert all(0.0 <= confidence <= 1.0 for _, confidence in proposals.masks)
    assert proposals.scene.frame == (0, 0, 320, 240)


def test_finder_with_random_weights_answers_or_gives_up() -> None:
    """Whatever an untrained SAM draws, the rules make a ROI inside the frame of it or say that there is none."""
    finder = PromptedFinder(RoiRecipe(), SamSegmenter(tiny_sam()))
    try:
        roi = finder.find(frame_with_part())
    except RoiNotFound:
        return
    assert roi.path.startswith("sam")
    assert roi.mask.shape == (240, 320)
    assert 0.02 < roi.mask.mean() < 0.8


def test_finder_with_sam_refuses_a_blank_frame_unasked() -> None:
    """Where there is nothing to prompt for SAM is not run."""
    with pytest.raises(RoiNotFound):
        PromptedFinder(RoiRecipe(), SamSegmenter(tiny_sam())).find(np.full((64, 64, 3), 90, np.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_segmenter_in_half_precision_sees_the_same() -> None:
    """On a CUDA device the embedding in half precision changes few pixels."""
    frame, model = frame_with_part(), tiny_sam()
    coarse = survey(frame, RoiRecipe()).boxes[0]
    exact = SamSegmenter(model).look(frame)(coarse, coarse.xyxy).masks
    halved = SamSegmenter(model.to("cuda")).look(frame)(coarse, coarse.xyxy).masks
    for (one, _), (other, _) in zip(exact, halved, strict=True):
        assert np.mean(one != other) < 0.02
