"""What the backbone is trained for: damage lies farther from the bank than anything sound does.

The references of an episode are the bank, as in service. In every judged view the distance of each patch to its nearest
reference is taken; the loss compares the logarithms of distances, damaged against sound, above all against the sound
patches that lie farthest out, since it is they that set the threshold. Logarithms, because a threshold follows the
distances of its model: only their ratio matters, and shrinking all of them gains nothing. A second term tells damage
from sound without a bank, which shows the way in the first thousand steps; a third keeps the vectors from gathering in
one point (VICReg, arXiv 2105.04906, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from service.pipeline.embed.grid import CELL_PX
from service.pretraining.episodes import REFERENCES, VIEWS, Label

SEEN_SHARE = 0.06
"""A patch is damaged where at least this share of it is."""
PART_SHARE = 0.5
HARDEST_SHARE = 0.04
"""Of the sound patches of an episode: those that lie farthest out."""
SAMPLE = 96
STEEPNESS, MARGIN_HARDEST, MARGIN = 2.0, 0.3, 0.7
"""Of the ranking, in units of the logarithm: damage is to lie at twice the distance of what is sound."""
SPREAD = 0.6
"""Least standard deviation of each number of a vector, as a share of that of vectors in all directions."""
RARE = 6.0
"""Weight of a damaged patch against a sound one without a bank."""
NEAREST_SQUARED = 1e-6


@dataclass(frozen=True, slots=True)
class Truth:
    """What each patch is: (views, rows, cols) bool, views being those of all episodes of a batch."""

    damaged: torch.Tensor
    sound: torch.Tensor
    inside: torch.Tensor

    @classmethod
    def of(cls, covered: torch.Tensor, labels: torch.Tensor) -> Truth:
        """Reduce covered and labels, both (views, SIDE, SIDE) uint8, to patches. Next to damage nothing is certain."""
        damage = (labels == Label.DAMAGED).float()[:, None]
        doubt = functional.max_pool2d((labels == Label.DOUBTFUL).float()[:, None], CELL_PX) > 0
        near = functional.max_pool2d(functional.max_pool2d(damage, CELL_PX), 3, 1, 1) > 0
        inside = functional.avg_pool2d(covered.float()[:, None], CELL_PX) >= PART_SHARE
        damaged = (functional.avg_pool2d(damage, CELL_PX) >= SEEN_SHARE) & inside
        return cls(damaged[:, 0], (~near & ~doubt & inside)[:, 0], inside[:, 0])


@dataclass(frozen=True, slots=True)
class Loss:
    """The sum, its terms, and how often a damaged patch lies farther out than one of the hardest sound ones."""

    total: torch.Tensor
    ranking: float
    alone: float
    spread: float
    ranked: float


def loss(vectors: torch.Tensor, logits: torch.Tensor, truth: Truth) -> Loss:
    """Return the loss of a batch of episodes.

    vectors: (episodes * VIEWS, dim, rows, cols), unit length. logits: (episodes * VIEWS, rows, cols), of damage without
    a bank.
    """
    rankings: list[torch.Tensor] = []
    ranked: list[torch.Tensor] = []
    for first in range(0, len(vectors), VIEWS):
        distances, damaged, sound = _judged(vectors[first : first + VIEWS], truth, first)
        if damaged.any() and sound.any():
            ranking, share = _ranking(distances[damaged], distances[sound])
            rankings.append(ranking)
            ranked.append(share)
    counted = truth.damaged | truth.sound
    alone = functional.binary_cross_entropy_with_logits(
        logits[counted], truth.damaged[counted].float(), pos_weight=torch.tensor(RARE, device=logits.device)
    )
    deviation = vectors.permute(0, 2, 3, 1)[truth.inside].std(dim=0) * vectors.shape[1] ** 0.5
    spread = functional.relu(SPREAD - deviation).mean()
    ranking = torch.stack(rankings).mean() if rankings else torch.zeros_like(alone)
    return Loss(
        ranking + alone + spread,
        float(ranking.detach()),
        float(alone.detach()),
        float(spread.detach()),
        float(torch.stack(ranked).mean()) if ranked else float("nan"),
    )


def _judged(views: torch.Tensor, truth: Truth, first: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the distance of each patch of the judged views to its nearest reference, and which are damaged, sound."""
    patches = views.permute(0, 2, 3, 1)
    references = patches[:REFERENCES][truth.inside[first : first + REFERENCES]]
    judged = slice(first + REFERENCES, first + VIEWS)
    nearest = (patches[REFERENCES:].flatten(0, 2) @ references.T).amax(dim=1)
    distances = (2 - 2 * nearest).clamp_min(NEAREST_SQUARED).sqrt()
    return distances, truth.damaged[judged].flatten(), truth.sound[judged].flatten()


def _ranking(damaged: torch.Tensor, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ranking loss of distances (P,) and (Q,), and the share of pairs in the right order."""
    damaged, sound = damaged.log(), sound.log()
    hardest = sound.topk(max(1, round(HARDEST_SHARE * len(sound)))).values
    any_sound = sound[torch.randint(len(sound), (SAMPLE,), device=sound.device)]
    any_damaged = damaged[torch.randperm(len(damaged), device=damaged.device)[:SAMPLE]]

    def behind(sounder: torch.Tensor, worse: torch.Tensor, margin: float) -> torch.Tensor:
        return functional.softplus(STEEPNESS * (sounder - worse + margin)).mean()

    # the last term is what decides about the part as a whole: its farthest patches against the farthest sound ones
    total = (
        behind(hardest[None], any_damaged[:, None], MARGIN_HARDEST)
        + 0.5 * behind(any_sound[None], any_damaged[:, None], MARGIN)
        + behind(hardest[:3].mean(), damaged.topk(min(3, len(damaged))).values.mean(), MARGIN)
    )
    return total, (any_damaged[:, None] > hardest[None]).float().mean().detach()
