"""Frames from allow-listed places, hostile ones included."""

from adapters.frames.decode import decode_image
from adapters.frames.loader import AllowListedFrames

__all__ = ["AllowListedFrames", "decode_image"]
