"""Files that are no checkpoints."""

from __future__ import annotations

import io

import torch

_LIST = io.BytesIO()
torch.save([1, 2], _LIST)

NO_CHECKPOINTS = {
    "empty": b"",
    "text": b"not a checkpoint",
    "text that goes further": b"hello\n",
    "text that is a pickle": b"qcod",
    "pickle of a future version": b"\x80h}.",
    "cut ZIP": b"PK\x03\x04" + bytes(64),
    "list": _LIST.getvalue(),
}
"""Torch answers each with an error of another kind, one of them with a warning before it."""
