"""Photos to train the starter on: small, made up, in a tar file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np


def write_photos(folder: Path, count: int = 6, *, seed: int = 0, broken: int = 0) -> Path:
    """Write `count` JPEGs of blobs and `broken` files that are none into FOLDER/photos.tar; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for index in range(count + broken):
            blobs = cv2.GaussianBlur(rng.uniform(0, 255, (120, 160, 3)).astype(np.float32), (0, 0), 4)
            picture = np.interp(blobs, (blobs.min(), blobs.max()), (0, 255)).astype(np.uint8)
            content = cv2.imencode(".jpg", picture)[1].tobytes() if index < count else b"no picture"
            member = tarfile.TarInfo(f"{index:04}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder
