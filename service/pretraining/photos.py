"""Photos in plain tar files, held as they are and decoded when asked for."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from service.errors import UsageError
from service.pipeline.types import FloatArray

_SUFFIXES = (".jpg", ".jpeg", ".png")
SMALLEST_SIDE = 64
"""A photo with a shorter side holds no surface worth a crop."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Encoded photos. digest: SHA-256 over all of them, in order, for the record of a training."""

    encoded: Sequence[bytes] = field(repr=False)
    digest: str

    def __len__(self) -> int:
        return len(self.encoded)

    @classmethod
    def read(cls, folder: Path) -> Photos:
        """Read every picture of every `*.tar` in `folder`, in the order of their names.

        Raises UsageError: no such folder, no photos in it, or a file that is no tar or ends too early.
        """
        if not folder.is_dir():
            raise UsageError(f"no folder {folder} with photos")
        encoded: list[bytes] = []
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.tar")):
            try:
                with tarfile.open(path) as tar:
                    members = [member for member in tar if member.name.lower().endswith(_SUFFIXES) and member.isfile()]
                    for member in members:
                        content = tar.extractfile(member)
                        assert content is not None, "a regular file has content"
                        encoded.append(content.read())
                        digest.update(hashlib.sha256(encoded[-1]).digest())
            # the last three: a packed tar that is broken or ends too early
            except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
                raise UsageError(f"{path} cannot be read: {exc}") from exc
        if not encoded:
            raise UsageError(f"no photos in tar files in {folder}")
        return cls(encoded, digest.hexdigest())

    def pick(self, rng: np.random.Generator) -> FloatArray:
        """Return one photo, (H, W, 3) float32 BGR, 0..1; another one in the place of one that cannot be decoded.

        Raises UsageError where none of a hundred can be.
        """
        for _ in range(100):
            content = self.encoded[int(rng.integers(len(self.encoded)))]
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            if image is not None and min(image.shape[:2]) >= SMALLEST_SIDE:
                return np.asarray(image, np.float32) / np.float32(255)
        raise UsageError("the photos cannot be decoded, or are too small")
