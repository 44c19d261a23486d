"""Memory banks of the canister study, `patchcore_memory.pkl`, read without running what a pickle may ask for.

Nothing of numpy is called while unpickling: inert stand-ins take the arguments of its reconstruction functions, and an
array is made afterwards from bytes whose length fits its shape.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from schemas.recipe import Recipe
from service.errors import PackageNotFound, PackageRefused, UsageError
from service.model.calibration import Calibration, LimitMethod
from service.model.manifest import EmbedderRecord, Metrics, ModelManifest, TrainingRecord, library_versions
from service.pipeline.types import FloatArray

if TYPE_CHECKING:
    from service.pipeline.embed import Embedder

LARGEST_FILE = 1 << 30
"""Bytes; a bank of 200,000 vectors of 1,024 numbers takes 0.8 GB."""
LARGEST_COUNT = 10_000
"""Operations and memo entries; a bank of the study takes some fifty. The unpickler reserves room for the largest memo
entry that a file names."""

_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_MAKES_NO_TUPLE = re.compile(
    "(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|NONE|NEWTRUE|NEWFALSE|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8"
    "|(EMPTY_)?(LIST|DICT)|(STACK_)?GLOBAL|REDUCE"
)
"""Operations that leave something else than a tuple on the stack; what they call, see `_STAND_INS`, returns none."""
_MOST_FETCHED = 16
"""Tuples: with so many references nested ones are hashed some hundred times at most, 3 ** (16 / 3)."""
_PLAIN_NUMBER = re.compile(r"[fiu][1248]|b1")
_MOST_DIMENSIONS = 64
"""Of an array of numpy."""


class _Refusal(ValueError):
    """Says what is wrong with a pickle."""


@dataclass(frozen=True, slots=True, eq=False)
class PickledBank:
    """What a pickle holds: vectors (M, D) float32, finite; tau > 0 where there is one."""

    vectors: FloatArray
    tau: float | None


def read_pickled_bank(path: Path) -> PickledBank:
    """Read `{"coreset" or "memory": (M, D) array, "tau": float, "feat_dim": int}`; tau and feat_dim may be missing.

    Raises PackageNotFound where there is no such file, PackageRefused for anything but plain types and numpy arrays of
    numbers, and for one that holds no bank.
    """
    try:
        with path.open("rb") as file:
            document = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as exc:
        raise PackageNotFound(f"no file {path}") from exc
    except OSError as exc:
        raise PackageRefused(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a text with an unknown escape: the file's, not ours
            _check_operations(document)
            return _bank_in(_Unpickler(io.BytesIO(document)).load())
    except _Refusal as exc:
        raise PackageRefused(f"{path}: {exc}") from exc
    except _MALFORMED as exc:
        raise PackageRefused(f"{path}: truncated, damaged, or no pickle") from exc


_PLAIN: Final = {"rim_evenness": 0.0, "neighbourhood": 1}
"""What the thresholds of an imported bank were set on: distances as they are."""


def imported_manifest(
    name: str, bank: PickledBank, tau: float | None, recipe: Recipe, embedder: Embedder
) -> ModelManifest:
    """Describe the package of an imported bank. No frame stands behind its thresholds, and it has no golden frames.

    tau: comes before that of the pickle; it serves as the limit of a patch as well, until frames tell a better one.

    Raises:
        PackageRefused: the embedder's vectors have another length.
        UsageError: no tau, or one that cannot be a threshold.
    """
    count, dim = bank.vectors.shape
    if dim != embedder.dim:
        raise PackageRefused(
            f"the bank has vectors of {dim} numbers, the embedder {embedder.name} makes {embedder.dim}"
        )
    tau = bank.tau if tau is None else tau
    if tau is None:
        raise UsageError("the pickle holds no tau: give --tau")
    try:
        return ModelManifest(
            name=name,
            created_at=datetime.now(UTC),
            libraries=library_versions(),
            recipe=recipe.model_copy(update={"score": recipe.score.model_copy(update=_PLAIN)}),
            embedder=EmbedderRecord(name=embedder.name, dim=dim, digest=embedder.digest),
            tau=tau,
            patch_tau=tau,
            calibration=Calibration(
                false_reject=None, method=LimitMethod.GIVEN, folds=0, frames_needed=0, limits={}, held_back=()
            ),
            training=TrainingRecord(
                frames=(), duplicates=(), mixed=False, patches=count, patches_held=count, bank_size=count
            ),
            metrics=Metrics(held_back_frames=0, held_back_rejected=0, score_median=None, score_max=None),
            golden=(),
        )
    except ValidationError as exc:
        raise UsageError(f"{tau} cannot be a threshold") from exc


def _check_operations(document: bytes) -> None:
    """Refuse what would take memory or time out of proportion; `genops` checks every stated length.

    The unpickler reserves room up to the largest memo entry. A tuple is hashed with all that is in it, as often as it
    is in it: one that holds the same tuple twice, and that again, sixty times over, would be hashed for ever as the key
    of a dict. So few may be fetched from the memo; lists and dicts have no hash.
    """
    if len(document) > LARGEST_FILE:
        raise _Refusal(f"larger than {LARGEST_FILE} bytes")
    before, memoized, tuples, fetched = "", set[int](), set[int](), 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(document)):
        name, entry = opcode.name, 0
        if name in {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}:
            entry = len(memoized) if argument is None else int(argument)
            memoized.add(entry)
            if not _MAKES_NO_TUPLE.fullmatch(before):
                tuples.add(entry)
        elif name == "DUP" or (name in {"GET", "BINGET", "LONG_BINGET"} and int(argument or 0) in tuples):
            fetched += 1
        if fetched > _MOST_FETCHED:
            raise _Refusal("refers to tuples in itself more often than any memory bank does")
        if max(count, entry) > LARGEST_COUNT:
            raise _Refusal(f"more than {LARGEST_COUNT} parts, which no memory bank has")
        before = name


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            asked = f"{module}.{name}"[:80]
            raise _Refusal(f"asks for {asked!r}; only plain types and numpy arrays of numbers are read") from None

    def persistent_load(self, pid: object) -> object:
        raise _Refusal(f"refers to something outside of it, {_told(pid)!r}")


class _Function:
    """A name that a pickle may call, with `function` behind it; a pickle can neither look into it nor change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refusal("sets the state of a function")


class _DType:
    """`numpy.dtype` of a plain number."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, _align: object = False, _copy: object = True) -> None:
        if not isinstance(code, str) or not _PLAIN_NUMBER.fullmatch(code):
            raise _Refusal(f"holds numpy values of the type {_told(code)!r}; only plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in {"<", ">", "|", "="} or not (subarray is names is fields is None):
            raise _Refusal("holds numpy values that are no plain numbers")
        self.dtype = self.dtype.newbyteorder(
            "|" if order == "|" else "<" if order == "<" else ">" if order == ">" else "="
        )


class _Array:
    """A numpy array: its bytes and what they mean."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: npt.NDArray[np.generic] = np.empty(0)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, dtype, by_columns, content = state
        self.fill(content, dtype, shape, "F" if by_columns else "C")

    def fill(self, content: object, dtype: object, shape: object, order: object) -> _Array:
        """Take the bytes, if they fit."""
        if isinstance(content, str):  # protocols 0 to 2 know no bytes
            content = content.encode("latin-1")
        if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _DType):
            raise _Refusal("holds a numpy array that is not made of plain numbers")
        if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
            raise _Refusal("holds a numpy array of a shape that cannot be")
        if not all(type(side) is int and 0 <= side <= LARGEST_FILE for side in shape):
            raise _Refusal("holds a numpy array of a shape that cannot be")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise _Refusal(f"holds a numpy array of the shape {shape} in {len(content)} bytes")
        flat = np.frombuffer(content, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if order == "F" else "C")
        return self


def _reconstruct(_subtype: object, _shape: object, _code: object) -> object:
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> object:
    return _Array().fill(content, dtype, shape, order)


def _scalar(dtype: object, content: object = b"") -> object:
    return _Array().fill(content, dtype, (), "C").array.item()


def _encode(text: str, codec: object) -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise _Refusal(f"asks for the codec {_told(codec)!r}")
    return text.encode("latin-1")


def _told(value: object) -> str:
    """Return a number or a text for people, of anything else its type: a small list may be endless in words."""
    return str(value)[:80] if isinstance(value, int | float | str) else f"({type(value).__name__.strip('_').lower()})"


_STAND_INS: dict[tuple[str, str], object] = {
    ("_codecs", "encode"): _Function(_encode),
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of _reconstruct only
    ("numpy", "dtype"): _Function(_DType),
}
# numpy 1 and 2 call the same modules by different names
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Function(_reconstruct)
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _Function(_scalar)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _Function(_from_buffer)


def _bank_in(content: object) -> PickledBank:
    if not isinstance(content, dict):
        raise _Refusal(f"holds a {type(content).__name__.strip('_').lower()}, not a dict with coreset or memory")
    memory = content.get("coreset", content.get("memory"))
    if not isinstance(memory, _Array):
        raise _Refusal("holds no array by the name of coreset or memory")
    if memory.array.ndim != 2 or memory.array.dtype.kind != "f" or not memory.array.size:
        raise _Refusal(f"a bank is (M, D) floating point numbers, not {memory.array.shape} {memory.array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        vectors = memory.array.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise _Refusal("the bank holds numbers that are not finite")
    feat_dim = content.get("feat_dim")
    if feat_dim is not None and feat_dim != vectors.shape[1]:
        raise _Refusal(f"says feat_dim {_told(feat_dim)}, its vectors have {vectors.shape[1]} numbers")
    tau = content.get("tau")
    if isinstance(tau, _Array) and tau.array.size == 1:
        tau = tau.array.item()
    if tau is not None and not (isinstance(tau, int | float) and 0 < tau < math.inf):
        raise _Refusal(f"says tau {_told(tau)}, which cannot be a threshold")
    return PickledBank(np.ascontiguousarray(vectors), None if tau is None else float(tau))
