"""The rows of a comparison: one definition for page, CSV and terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from schemas.messages import StagesMs
from service.evaluation.comparison import ComparedModel, Comparison
from service.evaluation.metrics import Label
from service.evaluation.page import figure, percent

MIB = 1 << 20


class Better(Enum):
    """Which end of a figure one wants."""

    HIGH = 1
    LOW = -1
    NEITHER = 0


@dataclass(frozen=True, slots=True)
class Column:
    """A number of each model; `key` names it in the CSV."""

    key: str
    of: Callable[[ComparedModel], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a model. text: how people read it. columns: of the CSV, one, or two for the ends of an interval."""

    columns: tuple[Column, ...]
    name: str
    text: Callable[[float | None], str]
    better: Better = Better.NEITHER

    def of(self, model: ComparedModel) -> float | None:
        """Return the figure; of an interval its lower end."""
        return self.columns[0].of(model)

    def cell(self, model: ComparedModel) -> str:
        """Return what stands in a table for people."""
        return " to ".join(self.text(column.of(model)) for column in self.columns)

    def best(self, models: Sequence[ComparedModel]) -> set[int]:
        """Return the places of the best models as people read the figure; none where all are alike."""
        known = {place: value for place, model in enumerate(models) if (value := self.of(model)) is not None}
        texts = {self.text(value) for value in known.values()}
        if self.better is Better.NEITHER or len(texts) < 2:
            return set()
        top = self.text(max(known.values(), key=lambda value: self.better.value * value))
        return {place for place, value in known.items() if self.text(value) == top}


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that belong together."""

    name: str
    figures: tuple[Figure, ...]


def figures_of(comparison: Comparison) -> list[Group]:
    """Return the groups with the figures that at least one model has."""
    groups = []
    for group in GROUPS:
        known = tuple(each for each in group.figures if any(each.of(model) is not None for model in comparison.models))
        if known:
            groups.append(Group(group.name, known))
    return groups


def milliseconds(value: float | None) -> str:
    """Return a time for people, in whole milliseconds from 100 on."""
    return figure(value, 1 if value is None or value < 100 else 0)


def _mib(value: float | None) -> str:
    return figure(value, 1 if value is None or value < 10 else 0)


def _count(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def _called_damaged(model: ComparedModel) -> float | None:
    counts = model.evaluation.sets.get(Label.UNKNOWN)
    return counts.damaged / (counts.ok + counts.damaged) if counts and counts.ok + counts.damaged else None


def _boxes_on_ok(model: ComparedModel) -> float | None:
    counts = model.evaluation.sets.get(Label.OK)
    return counts.boxes_per_frame if counts else None


def _not_judged(model: ComparedModel) -> float:
    return sum(counts.error for counts in model.evaluation.sets.values())


def _metric(part: str, name: str) -> Callable[[ComparedModel], float | None]:
    """Return what gets one figure out of a part of the evaluation that may not be there."""

    def of(model: ComparedModel) -> float | None:
        figures = getattr(model.evaluation, part)
        value: float | None = None if figures is None else getattr(figures, name)
        return value

    return of


def _cost_mib(name: str) -> Callable[[ComparedModel], float | None]:
    def of(model: ComparedModel) -> float | None:
        size: int | None = getattr(model.cost, name)
        return None if size is None else size / MIB

    return of


def _one(
    key: str,
    name: str,
    of: Callable[[ComparedModel], float | None],
    text: Callable[[float | None], str],
    better: Better = Better.NEITHER,
) -> Figure:
    return Figure((Column(key, of),), name, text, better)


def _image(key: str, name: str, text: Callable[[float | None], str], better: Better) -> Figure:
    return _one(key, name, _metric("image", key), text, better)


_ACCURACY = (
    _image("auroc", "image AUROC", figure, Better.HIGH),
    Figure(
        tuple(Column(key, _metric("image", key)) for key in ("auroc_low", "auroc_high")), "its 95% interval", figure
    ),
    _image("auprc", "image AUPRC", figure, Better.HIGH),
    _image("recall_at_1pct_false_reject", "recall at 1% false rejects", percent, Better.HIGH),
    _image("false_reject_at_tau", "false rejects at tau", percent, Better.LOW),
    _image("recall_at_tau", "recall at tau", percent, Better.HIGH),
    _one("called_damaged", "unlabelled, called damaged", _called_damaged, percent),
    _one("not_judged", "frames not judged", _not_judged, _count, Better.LOW),
)
_PLACE = (
    _one("aupro", "AUPRO", _metric("pixel", "aupro"), figure, Better.HIGH),
    _one("pixel_auroc", "pixel AUROC", _metric("pixel", "auroc"), figure, Better.HIGH),
    _one("box_precision", "box precision", _metric("boxes", "precision"), percent, Better.HIGH),
    _one("box_recall", "box recall", _metric("boxes", "recall"), percent, Better.HIGH),
    _one("box_iou", "box IoU, median", _metric("boxes", "iou_median"), figure, Better.HIGH),
    _one("boxes_per_ok_frame", "boxes on an OK frame", _boxes_on_ok, lambda value: figure(value, 2), Better.LOW),
)
_TIME = (
    _one("frame_ms", "in all", lambda model: model.cost.frame_ms, milliseconds, Better.LOW),
    *(_one(f"{stage}_ms", stage, _metric("median_ms", stage), milliseconds) for stage in StagesMs.model_fields),
)
_SIZE = (
    _one("bank_vectors", "bank, vectors", lambda model: model.cost.bank_size, _count, Better.LOW),
    _one("weights_mib", "weights, MiB", _cost_mib("weights_bytes"), _mib, Better.LOW),
    _one("peak_memory_mib", "peak memory, MiB", _cost_mib("peak_memory_bytes"), _mib, Better.LOW),
    _one("peak_process_mib", "whole process, MiB", _cost_mib("peak_process_bytes"), _mib, Better.LOW),
    _one("peak_gpu_mib", "peak on the GPU, MiB", _cost_mib("peak_gpu_bytes"), _mib, Better.LOW),
)
GROUPS = (
    Group("Accuracy", _ACCURACY),
    Group("Where the damage is", _PLACE),
    Group("Time of a frame, median ms", _TIME),
    Group("Size", _SIZE),
)
