"""Accuracy on rendered canisters: trains on OK frames, judges frames whose seeds were never used in training.

    python -m benchmarks.accuracy_rendered [--train 60] [--test 200] [--station 0] [--embedder starter] [--weights FILE]

Half of the test frames is damaged: any kind, any size. Printed are AUROC, false rejects and recall of every image
statistic, and how well the boxes of the frames called damaged cover the true damage. A frame counts as covered if every
true box has at least half of its area inside the union of the boxes; IoU is that of the two unions.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import RenderedFrame, render_canister
from benchmarks.models import rendered_model
from schemas.recipe import EmbedRecipe, Recipe, ScoreStatistic
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.errors import FrameError
from service.model.package import read_package
from service.model.registry import ModelRegistry
from service.pipeline.pipeline import Pipeline
from service.pipeline.scoring import all_statistics
from service.pipeline.types import Frame, Inspection

FIRST_OK, FIRST_DAMAGED = 100_000, 200_000
"""Seeds of the test frames, far from those of benchmarks.models and of the demo."""
COVERED = 0.5


@dataclass(frozen=True, slots=True)
class Judged:
    """A test frame, what the pipeline said, and every image statistic; kind "ok" for an undamaged one."""

    kind: str
    truth: RenderedFrame
    inspection: Inspection
    scores: dict[ScoreStatistic, float]


def judged(pipeline: Pipeline, seed: int, station: int, *, damaged: bool) -> Judged | None:
    """Render and judge one frame; None where no canister was found."""
    damage = random_damage(np.random.default_rng([seed, 3])) if damaged else None
    truth = render_canister(seed, damage=damage, station_seed=station)
    try:
        (inspection,) = pipeline.inspect([Frame(truth.bgr)])
    except FrameError as exc:
        print(f"seed {seed}: {exc.reason}: {exc}")
        return None
    (grid,) = pipeline.embedder.embed([inspection.prepared.normalized])
    scores = all_statistics(pipeline.patch_scores(grid))
    return Judged(str(damage.kind) if damage else "ok", truth, inspection, scores)


def auroc(ok: npt.NDArray[np.float64], damaged: npt.NDArray[np.float64]) -> float:
    """Return the share of pairs in which the damaged frame scores higher; ties count half."""
    return float(((damaged[:, None] > ok).sum() + 0.5 * (damaged[:, None] == ok).sum()) / (len(ok) * len(damaged)))


def box_overlap(frame: Judged) -> tuple[float, float]:
    """Return the smallest share of a true box inside the predicted boxes, and the IoU of both unions."""
    predicted, true = np.zeros((2, *frame.truth.mask.shape), bool)
    for box in frame.inspection.boxes:
        x1, y1, x2, y2 = box.xyxy
        predicted[y1:y2, x1:x2] = True
    shares = []
    for x1, y1, x2, y2 in frame.truth.boxes:
        shares.append(float(predicted[y1:y2, x1:x2].mean()))
        true[y1:y2, x1:x2] = True
    return min(shares), np.count_nonzero(predicted & true) / np.count_nonzero(predicted | true)


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=60, help="OK frames to train on")
    parser.add_argument("--test", type=int, default=200, help="frames to judge, half of them damaged")
    parser.add_argument("--station", type=int, default=0, help="seed of the rendered scene")
    parser.add_argument("--embedder", default="starter")
    parser.add_argument("--weights", default="", help="timm: local checkpoint")
    arguments = parser.parse_args()
    recipe = Recipe(embed=EmbedRecipe(embedder=arguments.embedder, weights=arguments.weights))
    store, name = rendered_model(arguments.train, recipe, arguments.station)
    package = read_package(ModelRegistry(store).resolve(name))
    pipeline = package.build_pipeline(compute_device(ComputeSettings()))
    print(
        f"{arguments.train} OK frames of station {arguments.station}, {recipe.embed.embedder}, "
        f"{len(pipeline.bank)} bank vectors"
    )

    half = arguments.test // 2
    ok = [j for i in range(half) if (j := judged(pipeline, FIRST_OK + i, arguments.station, damaged=False))]
    damaged = [j for i in range(half) if (j := judged(pipeline, FIRST_DAMAGED + i, arguments.station, damaged=True))]
    print(f"\n{len(ok)} OK and {len(damaged)} damaged frames judged")
    print(f"{'':12}{'AUROC':>8}{'tau':>8}{'false rejects':>15}{'recall':>8}")
    for statistic, tau in package.manifest.calibration.limits.items():
        good, bad = (np.array([frame.scores[statistic] for frame in frames]) for frames in (ok, damaged))
        chosen = " <- the recipe's" if statistic is recipe.score.statistic else ""
        rates = f"{np.mean(good >= tau):15.3f}{np.mean(bad >= tau):8.3f}"
        print(f"{statistic:12}{auroc(good, bad):8.3f}{tau:8.3f}{rates}{chosen}")

    called = [frame for frame in damaged if frame.inspection.damaged]
    total, found = Counter(frame.kind for frame in damaged), Counter(frame.kind for frame in called)
    print("found: " + ", ".join(f"{kind} {found[kind]} of {count}" for kind, count in sorted(total.items())))
    if called:
        overlap = np.array([box_overlap(frame) for frame in called])
        print(
            f"boxes of the {len(called)} frames called damaged: "
            f"{np.mean(overlap[:, 0] >= COVERED):.1%} cover the damage, "
            f"median share covered {np.median(overlap[:, 0]):.2f}, median IoU {np.median(overlap[:, 1]):.2f}"
        )
    times = [frame.inspection.times for frame in ok + damaged]
    stages = ("roi", "normalize", "embed", "score", "boxes")
    print("median ms: " + ", ".join(f"{stage} {np.median([getattr(t, stage) for t in times]):.1f}" for stage in stages))
    print(f"OK frames with a box: {sum(bool(frame.inspection.boxes) for frame in ok)} of {len(ok)}")


if __name__ == "__main__":
    main()
