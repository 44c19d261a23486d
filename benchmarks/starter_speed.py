"""Speed of the starter embedder and of the whole verdict path: CPU time of one thread, best of several.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.starter_speed [--embedder starter]

The frame is a rendered canister as a JPEG of 1920 x 1440. Embedding and scoring are measured on a whole square scene as
well, which is the most there is to embed. Banks and the frames that are judged are sound: patches of one station are
quicker to tell apart than noise, and a patch that looks like none or like hundreds of them takes longer.

The rival is anomalib's PatchCore on a ResNet-18 at 256 px with a bank of 4,096 vectors, from the same JPEG to the
anomaly map, where anomalib is installed; ours is then timed with as many vectors and without finding the part. Its
weights and its bank are random, which costs the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch

from adapters.simulation.renderer import render_canister
from benchmarks.distance import best_ms
from benchmarks.models import DECODE
from schemas.recipe import BoxRecipe, EmbedRecipe, MemoryRecipe, Recipe, RoiMethod, RoiRecipe
from service.pipeline import scoring
from service.pipeline.boxes import find_boxes
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank, build_memory_bank
from service.pipeline.patch_scores import RINGS
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import build_roi_finder
from service.pipeline.types import Frame, NormalizedRoi, PatchGrid

CPU = torch.device("cpu")
FRAME_WH, SQUARE_WH = (1920, 1440), (1440, 1440)
BANK, RIVAL_BANK, RIVAL_SIDE = 2_000, 4_096, 256
FRAMES = 12
RIM = (1.1,) * RINGS
TAU = 0.5

Calls = dict[str, Callable[[], object]]


def pipeline_of(embed: EmbedRecipe, method: RoiMethod, count: int, frame_wh: tuple[int, int]) -> Pipeline:
    """Return a pipeline whose bank holds `count` patches of FRAMES sound frames, as a training would choose them."""
    recipe = Recipe(roi=RoiRecipe(method=method), embed=embed)
    embedder, finder = build_embedder(recipe.embed, CPU), build_roi_finder(recipe.roi, CPU)
    any_bank = MemoryBank(np.eye(1, embedder.dim, dtype=np.float32))
    untrained = Pipeline(recipe, finder, embedder, any_bank, TAU, TAU, RIM)
    frames = (Frame(render_canister(seed, resolution_wh=frame_wh).bgr) for seed in range(2, 2 + FRAMES))
    grids = [embedder.embed([untrained.prepare(frame).normalized])[0] for frame in frames]
    memory = MemoryRecipe(coreset_min=count, coreset_max=count)
    return replace(untrained, bank=build_memory_bank(np.concatenate([grid.vectors for grid in grids]), memory))


def stages(embed: EmbedRecipe) -> Calls:
    """Return the stages by themselves, with a bank of BANK: a canister, and a scene that fills the square."""
    calls = Calls()
    for name, method, frame_wh in (
        ("canister", RoiMethod.GRABCUT, FRAME_WH),
        ("full square", RoiMethod.NONE, SQUARE_WH),
    ):
        for side in (256, 320):
            pipeline = pipeline_of(embed.model_copy(update={"input_side": side}), method, BANK, frame_wh)
            roi = pipeline.prepare(Frame(render_canister(1, resolution_wh=frame_wh).bgr)).normalized
            (grid,) = pipeline.embedder.embed([roi])
            calls[f"embed, {name}, {side} px"] = partial(pipeline.embedder.embed, [roi])
            calls[f"score, map and boxes, {name}, {side} px"] = partial(judged, pipeline, grid, roi, frame_wh)
    return calls


def judged(pipeline: Pipeline, grid: PatchGrid, roi: NormalizedRoi, frame_wh: tuple[int, int]) -> object:
    """Go from patch vectors to the image score and the boxes."""
    scores = pipeline.patch_scores(grid)
    scoring.image_score(scores, pipeline.recipe.score.statistic)
    anomaly_map = scoring.anomaly_map(scores, grid.inside)
    return find_boxes(anomaly_map, grid.inside, roi, frame_wh, TAU, BoxRecipe())


def whole(pipeline: Pipeline, jpeg: bytes) -> object:
    """Go from an encoded frame to its inspection."""
    return pipeline.inspect([Frame(DECODE(jpeg))])


def rival(jpeg: bytes) -> Callable[[], object] | None:
    """Return anomalib's way from a JPEG to the anomaly map, where anomalib is installed."""
    if not importlib.util.find_spec("anomalib"):
        return None
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # noqa: PLC0415 - optional

    model = PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False).eval()
    model.memory_bank = torch.nn.functional.normalize(torch.randn(RIVAL_BANK, 384), dim=1)

    @torch.inference_mode()
    def run() -> object:
        bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None, "it was encoded here"
        small = cv2.resize(bgr, (RIVAL_SIDE, RIVAL_SIDE), interpolation=cv2.INTER_AREA)[..., ::-1]
        batch = torch.from_numpy(np.ascontiguousarray(small)).permute(2, 0, 1)[None].float() / 255
        return model((batch - 0.45) / 0.23)

    return run


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", default="starter")
    embedder = parser.parse_args().embedder
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1: these are times of one thread")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    embed = EmbedRecipe(embedder=embedder)
    frame = render_canister(1, resolution_wh=FRAME_WH).bgr
    jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    calls = stages(embed)
    with_roi = pipeline_of(embed, RoiMethod.GRABCUT, BANK, FRAME_WH)
    without_roi = pipeline_of(embed, RoiMethod.NONE, RIVAL_BANK, FRAME_WH)
    calls["JPEG to verdict, GrabCut"] = partial(whole, with_roi, jpeg)
    calls["JPEG to verdict, no ROI, 4,096 vectors"] = partial(whole, without_roi, jpeg)
    anomalib = rival(jpeg)
    if anomalib is not None:
        calls["anomalib, ResNet-18, 4,096 vectors"] = anomalib
    times = best_ms(calls)
    for name, spent_ms in times.items():
        print(f"{name:45}{spent_ms:8.1f} ms")
    if anomalib is None:
        print("anomalib is not installed")
    else:
        *_, ours, theirs = times.values()
        print(f"without ROI {theirs / ours:.1f} times as fast as anomalib")


if __name__ == "__main__":
    main()
