"""Memory banks of the study: read, and never run."""

from __future__ import annotations

import builtins
import contextlib
import fractions
import functools
import importlib
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.errors import PackageNotFound, PackageRefused
from service.model.pickles import LARGEST_FILE, read_pickled_bank

BANK = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the pickle lies."""
    return tmp_path / "patchcore_memory.pkl"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [BANK, np.asfortranarray(BANK), BANK.astype(np.float64), BANK.astype(">f4"), BANK.astype(np.float16), BANK[::2]],
    ids=["C", "Fortran", "double", "big endian", "half", "strided"],
)
def test_bank_of_the_study_is_read(path: pathlib.Path, array: npt.NDArray[np.floating], protocol: int) -> None:
    """Every protocol and layout gives the array; tau may be a numpy number."""
    path.write_bytes(pickle.dumps({"coreset": array, "tau": np.float64(0.25), "feat_dim": np.int64(5)}, protocol))
    bank = read_pickled_bank(path)
    np.testing.assert_array_equal(bank.vectors, array.astype(np.float32))
    assert bank.vectors.dtype == np.float32
    assert bank.vectors.flags.c_contiguous
    assert bank.tau == 0.25


def test_bank_with_memory_alone_has_no_tau(path: pathlib.Path) -> None:
    """Whoever imports it says the threshold."""
    path.write_bytes(pickle.dumps({"memory": BANK}))
    assert read_pickled_bank(path).tau is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bank_that_says_a_tuple_twice_is_read(path: pathlib.Path, protocol: int) -> None:
    """As Python keeps one of two equal ones in a program."""
    size = (16, 16)
    path.write_bytes(pickle.dumps({"coreset": BANK, "grid": size, "input": size}, protocol))
    np.testing.assert_array_equal(read_pickled_bank(path).vectors, BANK)


def test_bank_pickled_by_numpy_1_is_read(path: pathlib.Path) -> None:
    """The modules were called numpy.core then."""
    path.write_bytes(pickle.dumps({"coreset": BANK}, 2).replace(b"numpy._core.", b"numpy.core."))
    np.testing.assert_array_equal(read_pickled_bank(path).vectors, BANK)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {marker}",)),
        (os.popen, ("touch {marker}",)),
        (os.remove, ("{marker}",)),
        (subprocess.Popen, (["touch", "{marker}"],)),
        (subprocess.check_output, (["touch", "{marker}"],)),
        (builtins.eval, ("open({marker!r}, 'w')",)),
        (builtins.exec, ("open({marker!r}, 'w')",)),
        (builtins.open, ("{marker}", "w")),
        (builtins.getattr, (1, "real")),
        (builtins.__import__, ("os",)),
        (builtins.bytearray, (1 << 40,)),
        (importlib.import_module, ("this",)),
        (functools.partial, (print, "{marker}")),
        (shutil.rmtree, ("{marker}",)),
        (pathlib.PurePosixPath, ("{marker}",)),
        (types.SimpleNamespace, ()),
        (fractions.Fraction, (1, 2)),
        (sys.exit, (0,)),
        (np.zeros, (1 << 40,)),
        (np.fromfile, ("{marker}",)),
        (np.load, ("{marker}", None, True)),
        (torch.load, ("{marker}",)),
        (complex, (1.0, 2.0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_asks_for_anything_else_is_refused_by_name(
    path: pathlib.Path, function: Callable[..., object], arguments: tuple[object, ...], protocol: int
) -> None:
    """What it asks for is named in one line and has not happened."""
    marker = path.parent / "marker"
    told = tuple(a.format(marker=str(marker)) if isinstance(a, str) else a for a in arguments)
    path.write_bytes(pickle.dumps({"coreset": BANK, "tau": Call(function, *told)}, protocol))
    with pytest.raises(PackageRefused, match=f"asks for '.*{function.__name__}'") as refused:
        read_pickled_bank(path)
    assert len(str(refused.value).splitlines()) == 1
    assert not marker.exists()


THRICE = b"".join(b"0" + b"h%c" % number * 3 + b"\x87q%c" % (number + 1) for number in range(60))
"""Sixty times over: a tuple of three times the tuple before."""
HAND_MADE = {
    "system in the oldest way": (b"(S'true'\nios\nsystem\n.", "asks for 'os.system'"),
    "system through a dotted name": (
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        r"'numpy.ndarray.__reduce__'",
    ),
    "numpy's ndarray called": (b"cnumpy\nndarray\n(I1000000000000\ntR.", "damaged"),
    "state of a function": (b"cnumpy\ndtype\n}S'_function'\nI1\nsb.", "state of a function"),
    "another codec": (b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.", "codec 'zip'"),
    "extension registry": (b"\x80\x02\x82\x01.", "damaged"),
    "persistent object": (b"Pelsewhere\n.", "'elsewhere'"),
    "memo of eight gigabytes": (b"I1\nr\xff\xff\xff\x3f.", "parts"),
    "memo by a text": (b"I1\np999999999\n.", "parts"),
    "many parts": (b"(" + b"I1\n" * 20_000 + b"t.", "parts"),
    "text of a terabyte": (b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"x.", "truncated"),
    "bytes of a terabyte": (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "truncated"),
    "deep nesting": (
        pickle.dumps({"coreset": BANK}, 2)[:-1] + b"S'tau'\n" + b"]" * 4_900 + b"a" * 4_899 + b"s.",
        r"says tau \(list\)",
    ),
    "tuple without an end, as a key": (b"}N\x85q\x00" + THRICE + b"Ns.", "refers to tuples"),
    "tuple behind what leaves it on the stack": (b"}N\x85(uq\x00" + b"h\x00Ns" * 17 + b".", "refers to tuples"),
    "tuple doubled on the stack": (b"}N\x85" + b"2\x86" * 17 + b"Ns.", "refers to tuples"),
    "codec without an end": (
        b"c_codecs\nencode\n(S'x'\n]q\x00" + b"".join(b"0]q%c(h%ch%ce" % (n + 1, n, n) for n in range(60)) + b"tR.",
        r"codec '\(list\)'",
    ),
    "itself": (b"}q\x00S'coreset'\nh\x00s.", "no array"),
    "unknown escape in a text": (b"S'\\q'\n.", "holds a str"),
    "no pickle": (b"PK\x03\x04", "no pickle"),
    "nothing": (b"", "truncated"),
}


@pytest.mark.parametrize(("document", "words"), HAND_MADE.values(), ids=HAND_MADE)
def test_hand_made_pickle_is_refused(path: pathlib.Path, document: bytes, words: str) -> None:
    """Nothing is run, and no memory is reserved that the file does not fill."""
    path.write_bytes(document)
    with pytest.raises(PackageRefused, match=words):
        read_pickled_bank(path)


OBJECTS = np.array([[1.0, None]], dtype=object)
FIELDS = np.zeros((2, 2), dtype=[("a", "f4")])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"coreset": OBJECTS}, "'O8'"),
        ({"coreset": np.array([["a"]])}, "'U1'"),
        ({"coreset": FIELDS}, "'V4'"),
        ({"coreset": np.array([["2026-01-01"]], dtype="M8[D]")}, "'M8'"),
        ({"coreset": np.zeros((2, 2), np.complex64)}, "'c8'"),
        ({"coreset": BANK.astype(np.int32)}, "floating point"),
        ({"coreset": BANK[0]}, "floating point"),
        ({"coreset": BANK[:0]}, "floating point"),
        ({"coreset": BANK.tolist()}, "no array"),
        ({"coreset": np.full((2, 2), np.nan)}, "not finite"),
        ({"coreset": np.full((2, 2), 1e300)}, "not finite"),
        ({"coreset": BANK, "feat_dim": 6}, "feat_dim 6"),
        ({"coreset": BANK, "tau": 0.0}, "tau 0.0"),
        ({"coreset": BANK, "tau": float("nan")}, "tau nan"),
        ({"coreset": BANK, "tau": "high"}, "tau high"),
        ({"bank": BANK}, "no array"),
        ({}, "no array"),
        ([BANK], "a list"),
        (BANK, "an? array"),
        (None, "NoneType|nonetype"),
    ],
)
def test_pickle_without_a_usable_bank_is_refused(path: pathlib.Path, content: object, words: str) -> None:
    """What it holds instead is said."""
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(PackageRefused, match=words):
        read_pickled_bank(path)


@pytest.mark.parametrize("key", ["tau", "feat_dim"])
def test_list_without_an_end_is_not_put_into_words(path: pathlib.Path, key: str) -> None:
    """A kilobyte that takes for ever to print."""
    endless: list[object] = []
    for _ in range(60):
        endless = [endless] * 10
    path.write_bytes(pickle.dumps({"coreset": BANK, key: endless}))
    with pytest.raises(PackageRefused, match=rf"says {key} \(list\)"):
        read_pickled_bank(path)


def test_shape_that_does_not_fit_its_bytes_is_refused(path: pathlib.Path) -> None:
    """Also where it would be huge."""
    document = pickle.dumps({"coreset": BANK}, 2)
    path.write_bytes(document.replace(b"K\x07K\x05\x86", b"J\xff\xff\xff\x7fK\x05\x86"))
    with pytest.raises(PackageRefused, match="shape"):
        read_pickled_bank(path)


def test_every_truncation_is_refused(path: pathlib.Path) -> None:
    """Wherever the copy broke off."""
    document = pickle.dumps({"coreset": BANK, "tau": 0.25, "feat_dim": 5})
    for length in range(len(document)):
        path.write_bytes(document[:length])
        with pytest.raises(PackageRefused, match="truncated"):
            read_pickled_bank(path)


@given(st.data())
def test_flipped_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Never a traceback."""
    document = bytearray(
        pickle.dumps({"coreset": BANK, "tau": 0.25, "feat_dim": 5}, data.draw(st.sampled_from(PROTOCOLS)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.pkl"
    path.write_bytes(document)
    with contextlib.suppress(PackageRefused):
        assert np.isfinite(read_pickled_bank(path).vectors).all()


def test_file_that_is_too_large_is_refused(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end."""
    monkeypatch.setattr("service.model.pickles.LARGEST_FILE", 100)
    path.write_bytes(pickle.dumps({"coreset": BANK}))
    assert LARGEST_FILE > path.stat().st_size > 100
    with pytest.raises(PackageRefused, match="larger than 100 bytes"):
        read_pickled_bank(path)


def test_file_that_is_not_there_is_named(path: pathlib.Path) -> None:
    """A directory cannot be read either."""
    with pytest.raises(PackageNotFound, match=path.name):
        read_pickled_bank(path)
    with pytest.raises(PackageRefused, match="cannot be read"):
        read_pickled_bank(path.parent)
