"""`cangate pretrain`: a short training on photos that the test makes, its files, going on, and what is refused."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import signal
import sys
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.torch
import torch

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed import build_embedder
from service.pipeline.embed.weights import read_tensors
from service.pipeline.types import NormalizedRoi
from tests.support.cli import CommandLine
from tests.support.parts import write_config, write_parts
from tests.support.photos import write_photos
from tests.support.waiting import eventually

CPU = torch.device("cpu")
SHORT = ("--no-rendered", "--workers", "0", "--episodes", "2")


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "120")
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def weights(cangate: CommandLine, tmp_path: Path) -> Path:
    """Weights of a training of one step."""
    photos = write_photos(tmp_path / "photos")
    assert cangate("pretrain", photos, "-o", tmp_path / "out", "--steps", 1, *SHORT).status == 0
    return tmp_path / "out" / "starter.safetensors"


def steps_in(folder: Path) -> list[int]:
    with (folder / "losses.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_training_writes_weights_that_embed_and_goes_on(cangate: CommandLine, tmp_path: Path) -> None:
    """Weights, loss curve and checkpoint are there; --resume adds the steps that are missing."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"

    outcome = cangate("pretrain", photos, "-o", out, "--steps", 2, *SHORT)
    assert outcome.status == 0
    weights = out / "starter.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in outcome.stdout.replace("\n", "")
    assert steps_in(out) == [2]
    first = weights.read_bytes()

    outcome = cangate("pretrain", photos, "-o", out, "--steps", 3, "--resume", *SHORT)
    assert outcome.status == 0
    assert "from step 2" in outcome.stdout
    assert steps_in(out) == [2, 3]
    assert weights.read_bytes() != first

    embedder = build_embedder(EmbedRecipe(weights=str(weights)), CPU)
    roi = NormalizedRoi(np.full((320, 320, 3), 90, np.uint8), np.ones((320, 320), bool), (0.0, 0.0), 1.0)
    (grid,) = embedder.embed([roi])
    assert grid.vectors.shape == (1600, embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["checkpoint.pt", "losses.csv", "starter.safetensors"])
def test_an_earlier_training_is_not_overwritten(cangate: CommandLine, tmp_path: Path, name: str) -> None:
    """Any file of it: one line says so, and nothing is touched."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"earlier")

    line = cangate("pretrain", photos, "-o", out, "--steps", 1, *SHORT).one_line_error()
    assert line == f"cangate: {out} holds an earlier training: give --resume, or another folder"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {name: b"earlier"}


def test_loss_curves_go_on_where_they_were(cangate: CommandLine, weights: Path, tmp_path: Path) -> None:
    """What smooths them lies in the checkpoint: one batch moves a curve by a twenty-fifth."""
    checkpoint = weights.with_name("checkpoint.pt")
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"smoothed": dict.fromkeys(state["smoothed"], 1000.0)}, checkpoint)

    resumed = cangate("pretrain", tmp_path / "photos", "-o", weights.parent, "--steps", 2, "--resume", *SHORT)
    assert resumed.status == 0
    with weights.with_name("losses.csv").open() as file:
        assert 950 < float(list(csv.DictReader(file))[-1]["ranking"]) < 970


def test_the_same_training_gives_the_same_weights(cangate: CommandLine, tmp_path: Path) -> None:
    """Photos, seed and steps say all there is to say."""
    photos = write_photos(tmp_path / "photos")
    for name in ("a", "b"):
        assert cangate("pretrain", photos, "-o", tmp_path / name, "--steps", 1, *SHORT).status == 0
    first, second = (safetensors.torch.load_file(tmp_path / name / "starter.safetensors") for name in ("a", "b"))

    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name])


def test_what_cannot_be_trained_on_is_refused_in_one_line(cangate: CommandLine, tmp_path: Path) -> None:
    """No photos, no checkpoint, and a checkpoint of other photos: status 2, one line each."""
    photos, others = write_photos(tmp_path / "photos"), write_photos(tmp_path / "others", seed=1)
    out = tmp_path / "out"
    assert cangate("pretrain", photos, "-o", out, "--steps", 1, *SHORT).status == 0

    for arguments, said in (
        ((tmp_path / "nowhere", "-o", tmp_path / "new"), "no folder"),
        ((photos, "-o", tmp_path / "new", "--resume"), "no checkpoint to go on from"),
        ((others, "-o", out, "--resume"), "is of another training"),
        ((photos, "-o", out, "--resume", "--rate", 0.1), "was begun with a rate of 0.0025"),
        ((photos, "-o", out, "--resume", "--weights", out / "starter.safetensors"), "takes no --weights"),
        ((photos, "-o", tmp_path / "new", "--weights", out / "losses.csv"), "holds no starter network"),
    ):
        assert said in cangate("pretrain", *arguments, *SHORT).one_line_error()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (b"", "no checkpoint to go on from"),
        (b"no checkpoint", "no checkpoint to go on from"),
        (b"PK\x03\x04" + bytes(64), "no checkpoint to go on from"),
        ([1, 2], "no checkpoint to go on from"),
        ({}, "is of another training"),
        ({"format": 1}, "is of another training"),
        ({"plan": None}, "is damaged"),
        ({"learner": {}}, "is damaged"),
        ({"optimizer": {"state": 1}}, "is damaged"),
        ({"step": "one"}, "is damaged"),
        ({"smoothed": [1]}, "is damaged"),
    ],
    ids=str,
)
def test_a_checkpoint_that_is_none_is_refused_in_one_line(
    cangate: CommandLine, weights: Path, tmp_path: Path, state: bytes | list[int] | dict[str, object], said: str
) -> None:
    """Other bytes, another object, or a state with a part that is none."""
    checkpoint = weights.with_name("checkpoint.pt")
    if isinstance(state, bytes):
        checkpoint.write_bytes(state)
    else:
        whole = torch.load(checkpoint, weights_only=True)
        torch.save(whole | state if isinstance(state, dict) and "damaged" in said else state, checkpoint)
    done = cangate("pretrain", tmp_path / "photos", "-o", weights.parent, "--resume", *SHORT)
    assert said in done.one_line_error()


@pytest.mark.parametrize("name", ["checkpoint.part", "losses.csv", "starter.safetensors"])
def test_a_file_that_cannot_be_written_is_named(cangate: CommandLine, tmp_path: Path, name: str) -> None:
    """Here because a folder lies in its place."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    (out / name).mkdir(parents=True)
    done = cangate("pretrain", photos, "-o", out, "--steps", 1, *SHORT)
    assert done.status == 2
    assert f"cannot write {out / name.replace('.part', '.pt')}: Is a directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_named(cangate: CommandLine, tmp_path: Path) -> None:
    """One line, as for a file."""
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "file").touch()
    done = cangate("pretrain", photos, "-o", tmp_path / "file" / "out", *SHORT)
    assert f"cannot write {tmp_path / 'file' / 'out'}: Not a directory" in done.one_line_error()


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_photos_that_end_too_early_are_named(cangate: CommandLine, tmp_path: Path, mode: Literal["w:gz"]) -> None:
    """A packed tar that was not copied to its end, and one with a byte that changed on the way."""
    (plain := write_photos(tmp_path / "photos") / "photos.tar").rename(tmp_path / "plain.tar")
    with tarfile.open(plain, mode) as tar:
        tar.add(tmp_path / "plain.tar", "first.jpg")
    content = plain.read_bytes()
    middle = len(content) // 2
    for broken in (content[:middle], content[:middle] + bytes(64) + content[middle + 64 :]):
        plain.write_bytes(broken)
        done = cangate("pretrain", plain.parent, "-o", tmp_path / "out", *SHORT)
        assert f"{plain} cannot be read: " in done.one_line_error()


@pytest.mark.parametrize("workers", [0, 1])
def test_photos_that_cannot_be_decoded_are_said_to_be(cangate: CommandLine, tmp_path: Path, workers: int) -> None:
    """In the same words, whichever process finds out."""
    photos = write_photos(tmp_path / "photos", 0, broken=2)
    done = cangate("pretrain", photos, "-o", tmp_path / "out", "--no-rendered", "--workers", workers)
    assert done.one_line_error() == "cangate: the photos cannot be decoded, or are too small"


@pytest.mark.parametrize(
    ("number", "status", "said", "trained"),
    [
        (signal.SIGTERM, 143, "cangate: terminated", True),
        (signal.SIGHUP, 129, "cangate: hung up", False),
    ],
)
async def test_a_training_with_workers_ends_in_one_line(
    tmp_path: Path, number: signal.Signals, status: int, said: str, trained: bool
) -> None:
    """A signal to the whole group of processes, as from a terminal or systemd."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    command = (sys.executable, "-m", "service.cli", "pretrain", photos, "-o", out, "--no-rendered", "--episodes", "1")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def has_begun() -> bool:
        assert process.returncode is None
        return (out / "losses.csv").exists() if trained else bool(children.read_text())

    try:
        await eventually(has_begun, timeout_s=60)
        os.killpg(process.pid, number)
        _, stderr = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = stderr.decode().splitlines()
    assert [line.startswith(said) for line in lines] == [True], lines
    assert process.returncode == status


def test_a_training_may_start_from_earlier_weights(cangate: CommandLine, weights: Path, tmp_path: Path) -> None:
    """One step away from them it is nearer to them than to what it would be without."""
    photos, out = tmp_path / "photos", tmp_path / "on"
    for name, more in (("on", ("--weights", weights)), ("anew", ("--seed", 7))):
        ran = cangate("pretrain", photos, "-o", tmp_path / name, "--steps", 1, "--rate", 1e-5, *more, *SHORT)
        assert ran.status == 0, ran
    start, anew = (safetensors.torch.load_file(path) for path in (weights, tmp_path / "anew" / "starter.safetensors"))
    on = safetensors.torch.load_file(out / "starter.safetensors")

    def apart(other: dict[str, torch.Tensor]) -> float:
        return sum(float((on[name].float() - tensor.float()).abs().sum()) for name, tensor in other.items())

    assert apart(start) < 0.1 * apart(anew)


def test_a_model_trained_on_weights_carries_them(cangate: CommandLine, weights: Path, tmp_path: Path) -> None:
    """Packed, the package judges without the file; named only, it is refused once the file is another one."""
    write_parts(tmp_path / "ok", 4)
    config = write_config(tmp_path)
    options = ("--store", tmp_path / "models", "--embedder", "starter", "-c", config)
    for name, more in (("packed", ("--pack-weights",)), ("named", ())):
        trained = cangate("train", tmp_path / "ok", "--name", name, "--weights", weights, *more, *options)
        assert trained.status == 0, trained
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 0x40
    weights.write_bytes(changed)

    assert cangate("models", "verify", "packed", "--store", tmp_path / "models").status == 0
    assert cangate("models", "verify", "named", "--store", tmp_path / "models").status != 0
    weights.unlink()
    assert cangate("models", "verify", "packed", "--store", tmp_path / "models").status == 0


def test_weights_are_read_as_safetensors_reads_them(weights: Path) -> None:
    """Our reading of the format and that of its library agree to the bit."""
    tensors, expected = read_tensors(weights.read_bytes()), safetensors.torch.load_file(weights)

    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


NO_SAFETENSORS = (b"", b"no tensors", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64, b"PK\x03\x04" + bytes(64), b"\0\0\0{" * 9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x02\0\0\0\0\0\0\0{}", ""),
        *((content, "it is no safetensors file$") for content in NO_SAFETENSORS),
    ],
)
def test_a_file_without_a_network_is_refused_by_its_path(content: bytes, words: str, tmp_path: Path) -> None:
    """Whatever it is, one line says that it is no starter network; a file that is missing is said to be."""
    path = tmp_path / "starter.safetensors"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=f"holds no starter network: {words}"):
        build_embedder(EmbedRecipe(weights=str(path)), CPU)
    path.unlink()
    with pytest.raises(UsageError, match="no weights"):
        build_embedder(EmbedRecipe(weights=str(path)), CPU)
