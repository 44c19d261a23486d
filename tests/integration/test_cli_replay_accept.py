"""`cangate replay --expect` and `cangate models activate --require-replay`: an update proves itself or stays out."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.recordings.reader import Session
from adapters.simulation.broker import free_port
from service.cli.replay_view import ReplayView
from service.model.registry import ModelRegistry
from service.replay.comparison import Comparer
from tests.support.cli import CommandLine
from tests.support.parts import train_parts, write_parts
from tests.support.recordings import drawn_part, write_session

PARTS = 9


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)  # reports are made here
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 judges as recorded, version 2 lets everything pass, version 3 nothing; version 1 is active."""
    folder = tmp_path_factory.mktemp("models")
    registry = ModelRegistry(folder)
    frames = write_parts(tmp_path_factory.mktemp("ok"), 10)
    registry.activate("bars", train_parts(frames).publish(registry).name)
    assert registry.add_with_threshold("bars", 10.0) == "2"
    assert registry.add_with_threshold("bars", 1e-6) == "3"
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine parts, every third damaged, with the verdicts and labels that are due."""
    parts = [drawn_part(number, damaged=number % 3 == 0) for number in range(PARTS)]
    return write_session(tmp_path_factory.mktemp("recordings") / "reference", parts)


def test_equal_package_is_accepted(cangate: CommandLine, session: Path, store: Path, tmp_path: Path) -> None:
    """Every rule holds, exit status 0, and the report says so in three files."""
    out = tmp_path / "report"
    done = cangate(
        "replay", session, "--speed", "max", "--model", "bars@1", "--store", store, "--expect", "recorded", "-o", out
    )
    assert done.status == 0, done.stdout
    assert "accepted" in done.stdout.splitlines()
    summary = json.loads((out / "acceptance.json").read_text())
    assert (summary["accepted"], summary["differing"], summary["parts"]) == (True, 0, PARTS)
    with (out / "parts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["change"] for row in rows] == ["same"] * PARTS
    assert "Replay of reference: accepted" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("version", "rule", "kind", "count"),
    [("2", "escapes_max", "Escapes", 3), ("3", "over_rejects_max", "Over-rejects", 6)],
)
@pytest.mark.parametrize("expect", ["recorded", "labels"])
def test_worse_package_is_rejected(
    cangate: CommandLine, session: Path, store: Path, version: str, rule: str, kind: str, count: int, expect: str
) -> None:
    """Its broken rule is named, exit status 1, and the parts are shown with both pictures."""
    model = ("--model", f"bars@{version}", "--store", store)
    done = cangate("replay", session, "--speed", "max", *model, "--expect", expect)
    assert done.status == 1
    assert f"BROKEN {rule}: {count} of {count} " in done.stdout
    assert "not accepted" in done.stdout.splitlines()
    page = Path("reports/reference/report.html").read_text()
    assert f"<h2>{kind}" in page
    assert page.count("<figure>") == count
    assert page.count("data:image/jpeg;base64,") == count
    for foreign in ("<script", "http://", "https://", "<link"):
        assert foreign not in page


def test_rules_of_the_plant_decide(cangate: CommandLine, session: Path, store: Path, tmp_path: Path) -> None:
    """What one plant refuses another one has allowed."""
    config = tmp_path / "config.toml"
    config.write_text("[acceptance]\nover_rejects_max = 1.0\n")
    model = ("--model", "bars@3", "--store", store, "-c", config)
    assert cangate("replay", session, "--speed", "max", *model, "--expect", "recorded").status == 0


def test_labels_of_a_file_win(cangate: CommandLine, session: Path, store: Path, tmp_path: Path) -> None:
    """Somebody looked again: part 0 was good, so calling it damaged is wrong, though the recording did it, too."""
    labels = tmp_path / "labels.csv"
    labels.write_text("event_id,label\ne0,ok\n")
    arguments = ("--speed", "max", "--model", "bars@1", "--store", store, "--expect", "labels")
    assert cangate("replay", session, *arguments, "--labels", labels).status == 0
    with Path("reports/reference/parts.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["expected"], first["change"], first["before"]) == ("OK", "over-reject", "over-reject")


def test_reports_of_different_sessions_lie_apart(
    cangate: CommandLine, session: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that differ in the microseconds, of a single file, and of the folder that somebody stands in."""
    beside = tmp_path / "line1-20260131T080000.000002Z"
    shutil.copytree(session, beside)
    judged = ("--speed", "max", "--model", "bars@1", "--store", store, "--expect", "recorded")
    for path in (beside, beside / "0001.mcap"):
        assert cangate("replay", path, *judged).status == 0
        assert cangate("compare", path, "bars@1", "bars@2", "--store", store).status == 0
    names = [beside.name, f"{beside.name}-0001"]
    assert sorted(path.name for path in Path("reports").iterdir()) == sorted(
        [*names, *(f"{name}-compared" for name in names)]
    )
    monkeypatch.chdir(beside)
    assert cangate("replay", ".", *judged).status == 0
    assert [path.name for path in Path("reports").iterdir()] == [beside.name]


def test_report_of_a_session_whose_name_is_no_utf_8(
    cangate: CommandLine, session: Path, store: Path, tmp_path: Path
) -> None:
    """Its bytes are spelled out in documents and pages, and the report lies under its own name."""
    named = tmp_path / os.fsdecode(b"s\xff")
    shutil.copytree(session, named)
    done = cangate("replay", named, "--speed", "max", "--model", "bars@1", "--store", store, "--expect", "recorded")
    assert done.status == 0, done.stderr
    assert json.loads((Path("reports") / named.name / "acceptance.json").read_text())["session"] == r"s\xff"
    done = cangate("compare", named, "bars@1", "bars@2", "--store", store, "-o", "out")
    assert done.status == 0, done.stderr
    assert json.loads(Path("out/comparison.json").read_text())["session"] == r"s\xff"
    assert r"parts of s\xff," in Path("out/report.html").read_text()


def test_report_is_not_written_among_the_files_of_its_session(
    cangate: CommandLine, session: Path, store: Path, tmp_path: Path
) -> None:
    """Given as a folder or as one of its files, by whatever name; before a part is judged."""
    link = tmp_path / "link"
    link.symlink_to(session)
    for source, report in ((session, session), (session, link), (session / "0001.mcap", session)):
        for command in (
            ("compare", source, "bars@1", "bars@2"),
            ("replay", source, "--speed", "max", "--model", "bars@1", "--expect", "recorded"),
        ):
            line = cangate(*command, "--store", store, "-o", report).one_line_error()
            assert line == f"cangate: cannot write {report}: it is the session itself; name another folder"
    assert [path.name for path in session.iterdir()] == ["0001.mcap"]


def test_replay_that_loses_its_way_says_how_far_it_came(cangate: CommandLine, session: Path, tmp_path: Path) -> None:
    """Broker and tally, also where there was no broker from the beginning."""
    port = free_port()
    config = tmp_path / "config.toml"
    config.write_text(f'[mqtt]\nport = {port}\n[images]\nroots = ["{tmp_path}"]\n')
    done = cangate("replay", session, "--via", "mqtt", "-c", config)
    assert done.status == 1
    assert done.stderr == f"cangate: 127.0.0.1:{port}: Connection refused\n"
    assert done.stdout.startswith("replay: 0 parts")


def test_activation_asks_for_a_replay(cangate: CommandLine, session: Path, store: Path) -> None:
    """A version that is not accepted stays out; one that is goes in."""
    registry = ModelRegistry(store)
    done = cangate("models", "activate", "bars", 2, "--store", store, "--require-replay", session)
    assert done.status == 1
    assert "bars@2 is not accepted" in done.stderr
    assert registry.active("bars") == "1"
    done = cangate("models", "activate", "bars", 1, "--store", store, "--require-replay", session)
    assert (done.status, registry.active("bars")) == (0, "1")
    assert "bars@1 is active" in done.stdout


def test_activation_is_not_fooled_by_an_empty_session(
    cangate: CommandLine, session: Path, store: Path, tmp_path: Path
) -> None:
    """No parts, no proof; a session whose parts cannot be read proves nothing either."""
    file = tmp_path / "0001.mcap"
    file.write_bytes((session / "0001.mcap").read_bytes()[:20_000])
    assert len(list(Session.open(file).parts())) == 0
    done = cangate("models", "activate", "bars", 2, "--store", store, "--require-replay", file)
    assert done.status == 1
    assert "BROKEN parts_min: 0 parts compared" in done.stdout


@pytest.fixture(params=["cut off", "corrupt"])
def half_lost(request: pytest.FixtureRequest, session: Path, tmp_path: Path) -> Path:
    """The session without its second half, or with a chunk that is spoilt."""
    folder = tmp_path / "half"
    folder.mkdir()
    content = bytearray((session / "0001.mcap").read_bytes())
    if request.param == "corrupt":
        content[content.index(b"C-000004")] ^= 1
    else:
        content = content[: len(content) // 2]
    (folder / "0001.mcap").write_bytes(content)
    return folder


def test_session_that_is_lost_in_part_is_not_accepted(
    cangate: CommandLine, half_lost: Path, store: Path, tmp_path: Path
) -> None:
    """However right what is left of it is judged: what cannot be read is a broken rule, and named in the report."""
    out = tmp_path / "report"
    model = ("--model", "bars@1", "--store", store)
    done = cangate("replay", half_lost, "--speed", "max", *model, "--expect", "recorded", "-o", out)
    assert done.status == 1
    assert "BROKEN readable: 1 places of the session cannot be read" in done.stdout
    summary = json.loads((out / "acceptance.json").read_text())
    assert (summary["accepted"], summary["differing"]) == (False, 0)
    (trouble,) = summary["troubles"]
    assert trouble.startswith("0001.mcap: ")
    assert f"<td>{trouble}</td>" in (out / "report.html").read_text()
    registry = ModelRegistry(store)
    before = registry.active("bars")
    done = cangate("models", "activate", "bars", 2, "--store", store, "--require-replay", half_lost)
    assert (done.status, registry.active("bars")) == (1, before)


def test_compare_of_a_session_that_is_lost_in_part_says_so(cangate: CommandLine, half_lost: Path, store: Path) -> None:
    """Exit status 1, and the place in the report."""
    done = cangate("compare", half_lost, "bars@1", "bars@2", "--store", store, "-o", "out")
    assert done.status == 1
    (trouble,) = json.loads(Path("out/comparison.json").read_text())["troubles"]
    assert trouble in done.stdout
    assert trouble in Path("out/report.html").read_text()


@pytest.mark.parametrize("command", ["replay", "compare", "models"])
def test_labels_of_other_parts_are_refused(
    cangate: CommandLine, session: Path, store: Path, tmp_path: Path, command: str
) -> None:
    """Some are named; nothing is judged as if nobody had said anything."""
    labels = tmp_path / "labels.csv"
    labels.write_text("filename,label\ne1,ok\n" + "".join(f"other{number}.png,ok\n" for number in range(7)))
    arguments = {
        "replay": ("replay", session, "--speed", "max", "--model", "bars@1", "--expect", "labels"),
        "compare": ("compare", session, "bars@1", "bars@2"),
        "models": ("models", "activate", "bars", 2, "--require-replay", session, "--expect", "labels"),
    }[command]
    told = cangate(*arguments, "--labels", labels, "--store", store).one_line_error()
    assert "no part of reference is other0.png, other1.png" in told
    assert "and 2 more" in told
    assert not Path("reports").exists()


@pytest.mark.parametrize("way", ["plain", "judged", "compared", "looped"])
def test_replay_that_is_interrupted_says_how_far_it_came(
    cangate: CommandLine, session: Path, store: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Exit status 130 and no report; a loop has no other end, so that is a good one."""
    taken = []

    def interrupting(take: Callable[..., None]) -> Callable[..., None]:
        def taking(self: object, part: object) -> None:
            take(self, part)
            taken.append(part)
            if len(taken) == 3:
                signal.raise_signal(signal.SIGINT)

        return taking

    monkeypatch.setattr(ReplayView, "take", interrupting(ReplayView.take))
    monkeypatch.setattr(Comparer, "take", interrupting(Comparer.take))
    replay = ("replay", session, "--speed", "max", "--model", "bars@1", "--store", store)
    done = {
        "plain": lambda: cangate(*replay),
        "judged": lambda: cangate(*replay, "--expect", "recorded", "-o", "out"),
        "compared": lambda: cangate("compare", session, "bars@1", "bars@2", "--store", store, "-o", "out"),
        "looped": lambda: cangate(*replay, "--loop"),
    }[way]()
    assert done.status == (0 if way == "looped" else 130)
    assert done.stderr == ("" if way == "looped" else "cangate: interrupted\n")
    assert way == "compared" or done.stdout.startswith("replay: 3 parts")
    assert not Path("out").exists()


def test_compare_says_where_models_differ(cangate: CommandLine, session: Path, store: Path) -> None:
    """Agreement, escapes and over-rejects against labels, the parts that divide them; every part in the CSV."""
    done = cangate("compare", session, "bars@1", "bars@2", "bars@3", "--store", store)
    assert done.status == 0, done.stderr
    assert "bars@1 and bars@2 agree on 66.7%; right alone: 3 and 0, p 0.25" in done.stdout
    assert "bars@1 and bars@3 agree on 33.3%; right alone: 6 and 0, p 0.0312" in done.stdout
    folder = Path("reports/reference-compared")
    summary = json.loads((folder / "comparison.json").read_text())
    assert [(model["escapes"], model["over_rejects"]) for model in summary["models"]] == [(0, 0), (3, 0), (0, 6)]
    assert [pair["agreement"] for pair in summary["pairs"]] == pytest.approx([6 / 9, 3 / 9, 0.0])
    with (folder / "parts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision bars@1"] for row in rows] == [
        "DAMAGED" if number % 3 == 0 else "OK" for number in range(PARTS)
    ]
    page = (folder / "report.html").read_text()
    assert page.count("<figure>") == PARTS
    assert page.count("<svg") == 3
    assert "<script" not in page


def test_compare_judges_a_model_given_twice_once(cangate: CommandLine, session: Path, store: Path) -> None:
    """As `evaluate --compare` does, and says so."""
    done = cangate("compare", session, "bars@1", "bars@2", store / "bars" / "1", "--store", store, "-o", "out")
    assert done.status == 0, done.stderr
    assert "given twice" in done.stdout
    models = json.loads(Path("out/comparison.json").read_text())["models"]
    assert [model["model"]["version"] for model in models] == ["1", "2"]


def test_compare_without_labels_does_not_say_who_is_right(cangate: CommandLine, store: Path, tmp_path: Path) -> None:
    """Nor does a part without a frame, or with one that is none, stop it."""
    parts = [
        replace(drawn_part(0), label=None),
        replace(drawn_part(1), label=None, frame=None),
        replace(drawn_part(2), label=None, frame=b"no picture"),
    ]
    session = write_session(tmp_path / "unknown", parts)
    done = cangate("compare", session, "bars@1", "bars@2", "--store", store, "-o", tmp_path / "out")
    assert done.status == 0, done.stderr
    assert "agree on 100.0%\n" in done.stdout
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [model["escapes"] for model in summary["models"]] == [None, None]
    assert [model["error"] for model in summary["models"]] == [2, 2]


def test_compare_needs_two(cangate: CommandLine, session: Path, store: Path) -> None:
    """One model is refused, however often and by whatever name it is given, and so is one that is not there."""
    for again in ((), ("bars@1",), ("bars", store / "bars" / "1")):
        told = cangate("compare", session, "bars@1", *again, "--store", store).one_line_error()
        assert "two different" in told
    assert not Path("reports").exists()
    assert "bars@9" in cangate("compare", session, "bars@1", "bars@9", "--store", store).one_line_error()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--labels", "labels.csv"), "--labels belongs to --expect labels"),
        (("--expect", "recorded", "--labels", "labels.csv"), "--labels belongs to --expect labels"),
        (("--expect", "labels", "--labels", "nowhere.csv"), "nowhere.csv"),
        (("-o", "report"), "--out belongs to --expect"),
        (("--expect", "miracles"), "miracles"),
        (("--expect", "recorded", "--loop"), "--loop never ends"),
    ],
)
def test_replay_refuses_what_does_not_go_together(
    cangate: CommandLine, session: Path, store: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    """One line that names it, exit status 2."""
    done = cangate("replay", session, "--model", "bars@1", "--store", store, *arguments)
    assert complaint in done.one_line_error()
