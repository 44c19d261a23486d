"""Every error the service raises on purpose.

CangateError
├── UsageError                  unusable arguments or configuration: one line, exit status 2
│   ├── PackageError            a model package that cannot be used
│   │   ├── PackageNotFound         no such name, version or path
│   │   └── PackageRefused          tampered, incomplete, or made for another backbone or recipe
│   └── TrainingError           the training set cannot make a model
├── FrameError                  no judgement on this frame; carries the contract's reason
│   ├── FrameMissing                frame_missing
│   ├── FrameCorrupt                frame_corrupt
│   ├── FrameRefused                frame_refused
│   └── RoiNotFound                 roi_not_found
├── EvaluationFailed            a model could not be judged to the end
├── EmptyMemoryBank             a distance was asked of a bank with no vectors
├── SinkUnavailable             a verdict could not be published now; it may be tried again
│   └── SinkRefused                 whoever takes it said no; it would say so again
└── JournalError                the journal could not read or write
    ├── JournalConflict             a number was used before
    └── JournalDamaged              what was said of an event cannot be read any more
"""

from __future__ import annotations

from typing import ClassVar

from schemas.messages import Reason


class CangateError(Exception):
    """Root of the tree; its text is one line that a person can act on."""


class UsageError(CangateError):
    """Unusable arguments or configuration."""


class PackageError(UsageError):
    """A model package cannot be used."""


class PackageNotFound(PackageError):
    """No such name, version or path."""


class PackageRefused(PackageError):
    """A package is tampered with, incomplete, or made for another backbone or recipe."""


class TrainingError(UsageError):
    """The training set cannot make a model."""


class FrameError(CangateError):
    """No judgement is possible on this frame."""

    reason: ClassVar[Reason] = Reason.INTERNAL_ERROR


class FrameMissing(FrameError):
    """The frame does not exist, or did not arrive."""

    reason = Reason.FRAME_MISSING


class FrameCorrupt(FrameError):
    """The bytes are no image that can be decoded whole."""

    reason = Reason.FRAME_CORRUPT


class FrameRefused(FrameError):
    """The frame lies outside the allowed roots, is too large, has the wrong hash, or bits where none can be seen."""

    reason = Reason.FRAME_REFUSED


class RoiNotFound(FrameError):
    """No canister was found in the frame."""

    reason = Reason.ROI_NOT_FOUND


class EvaluationFailed(CangateError):
    """A model could not be judged to the end."""


class EmptyMemoryBank(CangateError):
    """A distance was asked of a bank with no vectors."""


class SinkUnavailable(CangateError):
    """A verdict could not be published now; it may be tried again."""


class SinkRefused(SinkUnavailable):
    """Whoever takes verdicts said no to one, and would say so again until somebody mends it there."""


class JournalError(CangateError):
    """The journal could not read or write."""


class JournalConflict(JournalError):
    """A number was used before; trying again is of no use."""


class JournalDamaged(JournalError):
    """An event was answered, and its answer cannot be read any more; trying again is of no use."""


def one_line(error: BaseException) -> str:
    """Return what `error` says in one line of 200 characters at most: the system's own words alone, where it is its.

    The name of its type where it says nothing.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def brief(exc: BaseException) -> str:
    """Return the type of `exc` and what it says, in one line of 200 characters at most."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]
