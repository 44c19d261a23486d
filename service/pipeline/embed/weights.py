"""Weights of a network: what names them, how they are kept, and how they are read where no library may be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

State = Mapping[str, torch.Tensor]


def weights_digest(version: str, state: State) -> str:
    """Return the SHA-256 of the version of the code and every tensor with its name, shape and type."""
    digest = hashlib.sha256(version.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def in_half_precision(state: State) -> dict[str, torch.Tensor]:
    """Return the weights as float16, counters as they are: half the size, and the same digest after each reading."""
    return {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in state.items()
    }


def read_tensors(content: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file: eight bytes of length, a JSON header, the values.

    The pipeline imports nothing but the libraries of its trade, and this format is plain enough to be read here. Raises
    ValueError, KeyError, TypeError, RuntimeError or AttributeError for anything else.
    """
    values, header = _split(content)
    kinds = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        tensor = torch.frombuffer(bytearray(values[start:stop]), dtype=kinds[entry["dtype"]])
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors


def _split(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the values and what the header says of them. Raises ValueError where `content` has no such header."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = None
    with suppress(ValueError, RecursionError):
        header = json.loads(content[8:start].decode())
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file")  # noqa: TRY004 - of the file, not of an argument
    header.pop("__metadata__", None)
    return content[start:], header
