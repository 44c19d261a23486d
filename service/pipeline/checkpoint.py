"""Checkpoints of torch, read from files of anybody's making."""

from __future__ import annotations

import struct
import zipfile
from pickle import UnpicklingError

UNREADABLE = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError),
    *(UnpicklingError, struct.error, zipfile.BadZipFile),
)
"""What `torch.load(weights_only=True)`, and taking what it gives for weights, raise where a file holds none."""
