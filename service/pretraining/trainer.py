"""The training loop: batches of episodes, a rate that falls to nothing, averaged weights, checkpoints, a log."""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from service.errors import CangateError, UsageError
from service.files import naming
from service.pipeline.checkpoint import UNREADABLE
from service.pipeline.embed.starter_network import StarterNetwork, normalize_locally
from service.pretraining.episodes import SIDE, EpisodeStream, Parts
from service.pretraining.objective import Loss, Truth, loss
from service.pretraining.photos import Photos

FORMAT = 2
CHECKPOINT, LOSSES = "checkpoint.pt", "losses.csv"
LOG_EVERY = 25
CHECKPOINT_EVERY = 250
WARM_UP_STEPS = 150
DECAY = 0.998
"""Of the averaged weights, a step."""
LARGEST_GRADIENT = 1.0
_ENDINGS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
TERMS = ("ranking", "alone", "spread", "ranked")


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how.

    steps: batches until the learning rate is nothing. minutes: it falls faster where the steps would take longer;
    0: as long as they take. episodes: of a batch. workers: processes that make episodes up.
    """

    steps: int
    minutes: float = 0.0
    episodes: int = 6
    rate: float = 2.5e-3
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Trained:
    """Told after every batch: step of steps, share of the training that is over, the smoothed loss and ranking."""

    step: int
    share: float
    loss: float
    ranked: float


class _Learner(nn.Module):
    """The network, and what tells damage without a bank, which does not ship."""

    def __init__(self) -> None:
        super().__init__()
        self.network = StarterNetwork()
        self.alone = nn.Conv2d(self.network.dim, 1, 1)

    def forward(self, bgr: torch.Tensor, covered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = normalize_locally(bgr, covered).contiguous(memory_format=torch.channels_last)
        vectors = self.network(seen)
        return vectors, self.alone(vectors * self.network.dim**0.5)[:, 0]


class PreTrainer:
    """One training, from its start or from its checkpoint.

    Files in `folder`: checkpoint.pt, written every CHECKPOINT_EVERY steps and replaced whole, and losses.csv.
    """

    def __init__(
        self, folder: Path, plan: TrainingPlan, photos: Photos, parts: Parts | None, device: torch.device
    ) -> None:
        self.folder, self.plan, self.photos, self.parts, self.device = folder, plan, photos, parts, device
        torch.manual_seed(plan.seed)
        self._learner = _Learner().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the pair
        average = get_ema_multi_avg_fn(DECAY)  # type: ignore[no-untyped-call]  # torch
        self._average = AveragedModel(self._learner, multi_avg_fn=average, use_buffers=True)
        self._optimizer = torch.optim.AdamW(self._learner.parameters(), lr=plan.rate, weight_decay=0.02)
        self.step, self._seconds = 0, 0.0
        self._smoothed: dict[str, float] = {}

    @property
    def share(self) -> float:
        """How much of the training is over, 0..1: by steps or by time, whichever is further."""
        by_time = self._seconds / (60 * self.plan.minutes) if self.plan.minutes else 0.0
        return min(max(self.step / self.plan.steps, by_time), 1.0)

    @property
    def checkpoint(self) -> Path:
        """The file to go on from."""
        return self.folder / CHECKPOINT

    def start_from(self, network: StarterNetwork) -> None:
        """Begin with this network instead of a random one. Raises UsageError: it has another shape."""
        try:
            self._learner.network.load_state_dict(network.state_dict())
        except RuntimeError as exc:
            raise UsageError("the weights to start from are of a network of another shape") from exc
        self._average.module.load_state_dict(self._learner.state_dict())

    def resume(self) -> None:
        """Go on where the checkpoint stopped. Raises UsageError: there is none, or it is of another training."""
        state = self._read_checkpoint()
        ours = (FORMAT, self.photos.digest, self.plan.seed)
        if tuple(map(state.get, ("format", "photos", "seed"))) != ours:
            raise UsageError(f"{self.checkpoint} is of another training: other photos, another seed or another version")
        try:
            rate = float(state["plan"]["rate"])
            if rate == self.plan.rate:
                self._take(state)
        except UNREADABLE as exc:
            raise UsageError(f"{self.checkpoint} is damaged: it is no whole state of a training") from exc
        if rate != self.plan.rate:
            raise UsageError(f"{self.checkpoint} was begun with a rate of {rate:g}; go on with that one")

    def _read_checkpoint(self) -> dict[str, Any]:
        """Return what `save` has written. Raises UsageError: there is no such file, or it is another."""
        nothing = f"no checkpoint to go on from in {self.folder}: "
        try:
            content = self.checkpoint.read_bytes()
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a format that is none
                state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        except OSError as exc:
            raise UsageError(f"{nothing}{self.checkpoint.name}: {exc.strerror or exc}") from exc
        except UNREADABLE as exc:
            raise UsageError(f"{nothing}{self.checkpoint.name} cannot be read") from exc
        if not isinstance(state, dict):
            raise UsageError(f"{nothing}{self.checkpoint.name} holds something else")
        return state

    def _take(self, state: dict[str, Any]) -> None:
        self._learner.load_state_dict(state["learner"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._seconds = int(state["step"]), float(state["seconds"])
        self._smoothed = {term: float(value) for term, value in state["smoothed"].items()}

    def run(self, told: Callable[[Trained], None]) -> StarterNetwork:
        """Train to the end of the plan, and return the averaged network on the CPU. What `told` raises stops it.

        Raises UsageError where nothing can be written, or the photos are of no use.
        """
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with _losing_workers():
            self._train(told)
        network = self._average.module.network
        assert isinstance(network, StarterNetwork), "the average is of the learner"
        return network.cpu().eval()

    def _train(self, told: Callable[[Trained], None]) -> None:
        before = time.monotonic()
        for batch in self._batches():
            if self.share >= 1:
                break
            result = self._learn(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
            now = time.monotonic()
            self.step, self._seconds, before = self.step + 1, self._seconds + now - before, now
            self._note(result)
            told(Trained(self.step, self.share, self._smoothed["ranking"], self._smoothed["ranked"]))
            if self.step % CHECKPOINT_EVERY == 0 or self.share >= 1:
                self.save()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        stream = EpisodeStream(self.photos, self.parts, self.plan.seed, self.step)
        loader = DataLoader(
            stream,
            batch_size=self.plan.episodes,
            num_workers=self.plan.workers,
            prefetch_factor=4 if self.plan.workers else None,
            # a forked child of a process with threads may hang; one that is spawned would read the photos by pickle
            multiprocessing_context="fork" if self.plan.workers else None,
            worker_init_fn=_end_in_silence,
            pin_memory=self.device.type == "cuda",
        )
        with _endings_held():
            batches = iter(loader)
        try:
            yield from batches
        except UsageError as exc:  # of a worker: its message comes at the end of a whole traceback
            raise UsageError(str(exc).rpartition(f"{UsageError.__name__}: ")[2].strip()) from exc

    def _learn(self, images: torch.Tensor, covered: torch.Tensor, labels: torch.Tensor) -> Loss:
        rate = self.plan.rate * (0.5 + 0.5 * math.cos(math.pi * self.share)) * min(1, (self.step + 1) / WARM_UP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        bgr = images.reshape(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).float() / 255
        covered, labels = covered.reshape(-1, SIDE, SIDE), labels.reshape(-1, SIDE, SIDE)
        vectors, logits = self._learner(bgr, covered[:, None].float())
        result = loss(vectors, logits, Truth.of(covered, labels))
        self._optimizer.zero_grad(set_to_none=True)
        result.total.backward()  # type: ignore[no-untyped-call]  # torch
        nn.utils.clip_grad_norm_(self._learner.parameters(), LARGEST_GRADIENT)
        self._optimizer.step()
        self._average.update_parameters(self._learner)
        return result

    def _note(self, result: Loss) -> None:
        for term in TERMS:
            value = getattr(result, term)
            if not math.isnan(value):
                self._smoothed[term] = self._smoothed.get(term, value) * 0.96 + value * 0.04
            self._smoothed.setdefault(term, 0.0)
        if self.step % LOG_EVERY and self.share < 1:
            return
        path = self.folder / LOSSES
        new = not path.exists()
        with naming(path), path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", "seconds", *TERMS))
            writer.writerow((self.step, f"{self._seconds:.0f}", *(f"{self._smoothed[term]:.4f}" for term in TERMS)))

    def save(self) -> None:
        """Write the checkpoint in the place of the last one, whole or not at all. Raises UsageError where it cannot."""
        state: dict[str, Any] = {
            "format": FORMAT,
            "photos": self.photos.digest,
            "seed": self.plan.seed,
            "plan": asdict(self.plan),
            "step": self.step,
            "seconds": self._seconds,
            "smoothed": self._smoothed,
            "learner": self._learner.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        beside = self.checkpoint.with_suffix(".part")
        content = io.BytesIO()
        torch.save(state, content)
        with naming(self.checkpoint):
            beside.write_bytes(content.getbuffer())
            beside.replace(self.checkpoint)


@contextmanager
def _losing_workers() -> Iterator[None]:
    """Map the loss of a worker, which torch raises wherever we are, to the ending of the command that it is part of.

    Raises CangateError where nothing else has ended it: most likely there was no memory for it.
    """
    try:
        yield
    except RuntimeError as exc:
        if not str(exc).startswith("DataLoader worker"):
            raise
        if isinstance(exc.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exc
        raise CangateError(f"a process that makes episodes up was lost: {exc}") from exc


def _end_in_silence(_worker: int) -> None:
    """Let what a whole group of processes is told end a worker without torch taking it for a crash."""
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


@contextmanager
def _endings_held() -> Iterator[None]:
    """Keep these signals from workers until they know what to do: they inherit what is held back here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
