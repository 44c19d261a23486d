"""Every journal keeps the same promises."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.journal import SqlJournal
from adapters.journal.database import T, Work
from adapters.journal.schema import key_of
from schemas.messages import Decision, Gate, ImageEvent, JudgedImage, Reason, StagesMs, Verdict
from schemas.settings import JournalSettings
from service.errors import JournalConflict, JournalError, UsageError
from service.ports import Answer, Arrival, Asker, Journal, VerdictQuery
from tests.support.line import CLOCK, MODEL, arrival
from tests.support.memory_journal import MemoryJournal
from tests.support.postgresql import PostgresqlServer


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        in_memory = MemoryJournal()
        in_memory.secures = True
        yield in_memory
    elif request.param == "sqlite":
        settings = JournalSettings(url=f"sqlite:///{tmp_path / 'journal.sqlite'}")
        async with SqlJournal(settings, station="line1", clock=CLOCK, memory=tmp_path) as opened:
            yield opened
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database() as name:
            settings = JournalSettings(url=server.url(name), folder=tmp_path)
            async with SqlJournal(settings, station="line1", clock=CLOCK, memory=tmp_path) as opened:
                yield opened


def answer_to(event: Arrival, seq: int, decision: Decision = Decision.ERROR) -> Answer:
    judged = decision is not Decision.ERROR
    verdict = Verdict(
        station="line1",
        event_id=event.event.event_id,
        part_id=event.event.part_id,
        trigger_id=None,
        seq=seq,
        decision=decision,
        gate=Gate.REJECT,
        reason=Reason.INTERNAL_ERROR,
        uncertain=False,
        score=0.5 if judged else None,
        threshold=1.0 if judged else None,
        image=JudgedImage(width=60, height=40) if judged else None,
        model=MODEL if judged else None,
        captured_at=None,
        received_at=event.received_at,
        decided_at=event.received_at,
        latency_ms=1.0,
        stages_ms=StagesMs(),
    )
    return Answer(verdict, verdict.to_json(), event.received_monotonic, Asker.of(event))


async def accept(journal: Journal, event_id: str) -> Arrival:
    event = arrival(event_id)
    assert await journal.accept(event, event.received_at + timedelta(seconds=1)) is None
    return event


async def test_journal_starts_empty(journal: Journal) -> None:
    """A new journal has no verdicts, no numbers and nothing left to answer."""
    assert await journal.last_seq() == 0
    assert await journal.unanswered() == []
    assert await journal.answered(after=0, limit=10) == ([], None)
    assert await journal.page(VerdictQuery()) == []
    assert await journal.find("nobody") is None
    assert await journal.confirmed("mqtt") is None


async def test_journal_knows_an_event_again(journal: Journal) -> None:
    """The second time an event comes, the journal returns what it noted, with the verdict once there is one."""
    event = await accept(journal, "e1")
    known = await journal.accept(event, event.received_at)
    assert known is not None
    assert (known.event, known.image, known.verdict_json) == (event.event, event.image, None)
    answer = answer_to(event, 1)
    await journal.store([(answer, event)])
    known = await journal.accept(event, event.received_at)
    assert known is not None
    assert known.verdict_json == answer.verdict_json


async def test_journal_returns_the_exact_bytes(journal: Journal) -> None:
    """A stored verdict comes back byte for byte."""
    event = await accept(journal, "ü/%20 €'\\🥫 e1")
    answer = replace(answer_to(event, 7), verdict_json=bytes(range(256)) + b'{"any": "bytes\xc3\xbc"}')
    await journal.store([(answer, event)])
    found = await journal.find(event.event.event_id)
    assert (type(found), found) == (bytes, answer.verdict_json)
    assert await journal.last_seq() == 7


_NAMES = ["x" * 256, "x" * 257, "x" * 60_000, "ü" * 60_000, "\t\x1b[2J\r\n\x7f", "\x01", "\ufffe\U0010ffff"]


async def test_journal_knows_an_event_by_any_name(journal: Journal) -> None:
    """A refused event may have a name too long for an index, or one of control characters: each is kept apart."""
    rng = random.Random(7)  # what cannot be compressed does not fit into a page of an index either
    names = [*_NAMES, "".join(chr(rng.randrange(0x20, 0xD800)) for _ in range(20_000))]
    names.append(key_of(names[-1]))
    answers = {}
    for seq, name in enumerate(names, start=1):
        event = replace(arrival(), event=ImageEvent(event_id=name))
        assert await journal.accept(event, event.received_at) is None
        answers[name] = answer_to(event, seq), event
    assert {entry.event.event_id for entry in await journal.unanswered()} == set(names)
    await journal.store(list(answers.values()))
    for name, (answer, event) in answers.items():
        assert await journal.find(name) == answer.verdict_json
        known = await journal.accept(event, event.received_at)
        assert known is not None
        assert (known.event, known.verdict_json) == (event.event, answer.verdict_json)
        await journal.store_late(name, b"{}")
    assert await journal.find("x" * 258) is None
    assert len(await journal.answered_ids(100)) == len(names)


@pytest.mark.parametrize("correlation_data", [None, b"", b"\x00\xffcorrelation", bytes(65_535)])
async def test_journal_keeps_correlation_data(journal: Journal, correlation_data: bytes | None) -> None:
    """Whoever asked finds his answer by it, also in a later run; noted when the event came, or with its verdict."""
    noted, with_its_verdict = (replace(arrival(name), correlation_data=correlation_data) for name in ("e1", "e2"))
    await journal.accept(noted, noted.received_at)
    (entry,) = await journal.unanswered()
    assert entry.correlation_data == correlation_data
    await journal.store([(answer_to(noted, 1), noted), (answer_to(with_its_verdict, 2), with_its_verdict)])
    entries, _ = await journal.answered(after=0, limit=10)
    assert [entry.correlation_data for entry in entries] == [correlation_data, correlation_data]


async def test_journal_lists_unanswered_events_oldest_first(journal: Journal) -> None:
    """What was accepted and not answered is what a restart has to answer."""
    events = [await accept(journal, f"e{number}") for number in range(3)]
    await journal.store([(answer_to(events[1], 1), events[1])])
    assert [entry.event.event_id for entry in await journal.unanswered()] == ["e0", "e2"]


async def test_journal_pages_newest_first(journal: Journal) -> None:
    """Pages go back by seq and can be narrowed to a decision or a part."""
    answers = []
    for seq, decision in enumerate([Decision.OK, Decision.DAMAGED, Decision.OK, Decision.ERROR], start=1):
        event = await accept(journal, f"e{seq}")
        answers.append((answer_to(event, seq, decision), event))
    await journal.store(answers)
    texts = [answer.verdict_json for answer, _ in answers]
    assert list(await journal.page(VerdictQuery())) == texts[::-1]
    assert list(await journal.page(VerdictQuery(limit=2))) == [texts[3], texts[2]]
    assert list(await journal.page(VerdictQuery(before=3))) == [texts[1], texts[0]]
    assert list(await journal.page(VerdictQuery(part_id="P-e2"))) == [texts[1]]
    assert list(await journal.page(VerdictQuery(decision=Decision.OK))) == [texts[2], texts[0]]
    assert list(await journal.page(VerdictQuery(decision=Decision.OK, part_id="P-e3"))) == [texts[2]]
    assert list(await journal.page(VerdictQuery(decision=Decision.OK, part_id="P-e2"))) == []


async def say(journal: Journal, seq: int, decision: Decision = Decision.ERROR) -> tuple[Answer, Arrival]:
    """Say a verdict on a new event, as the dispatcher does before it is published."""
    event = await accept(journal, f"e{seq}")
    answer = answer_to(event, seq, decision)
    assert journal.secure(answer, event)
    return answer, event


async def test_journal_finds_what_was_said_before_it_is_stored(journal: Journal) -> None:
    """Whoever heard a verdict and asks for it finds it at once, its exact bytes; and again when it is stored."""
    event = await accept(journal, "e1")
    answer = answer_to(event, 1)
    answer = replace(answer, verdict_json=b" " + answer.verdict_json + b"\r\n")
    assert journal.secure(answer, event)
    assert await journal.find("e1") == answer.verdict_json
    assert list(await journal.page(VerdictQuery())) == [answer.verdict_json]
    await journal.store([(answer, event)])
    assert await journal.find("e1") == answer.verdict_json
    assert list(await journal.page(VerdictQuery())) == [answer.verdict_json]


async def test_journal_pages_what_was_said_among_what_is_stored(journal: Journal) -> None:
    """In its place by seq, by the same filters, within the same limit."""
    decisions = [Decision.OK, Decision.DAMAGED, Decision.OK, Decision.ERROR, Decision.OK]
    said = [await say(journal, seq, decision) for seq, decision in enumerate(decisions, start=1)]
    await journal.store([said[0], said[2], said[3]])
    texts = [answer.verdict_json for answer, _ in said]
    assert list(await journal.page(VerdictQuery())) == texts[::-1]
    assert list(await journal.page(VerdictQuery(limit=2))) == [texts[4], texts[3]]
    assert list(await journal.page(VerdictQuery(before=3))) == [texts[1], texts[0]]
    assert list(await journal.page(VerdictQuery(before=3, limit=1))) == [texts[1]]
    assert list(await journal.page(VerdictQuery(part_id="P-e2"))) == [texts[1]]
    assert list(await journal.page(VerdictQuery(decision=Decision.OK))) == [texts[4], texts[2], texts[0]]
    assert list(await journal.page(VerdictQuery(decision=Decision.OK, part_id="P-e2"))) == []


async def test_journal_forgets_what_it_will_never_store(journal: Journal) -> None:
    """A verdict whose number was used before goes, and the one that has the number stays."""
    first, _ = await say(journal, 1)
    event = await accept(journal, "e2")
    second = answer_to(event, 2)
    assert journal.secure(second, event)
    await journal.store([(second, event)])
    other = await accept(journal, "e3")
    conflicting = answer_to(other, 2)
    assert journal.secure(conflicting, other)
    with pytest.raises(JournalConflict):
        await journal.store([(conflicting, other)])
    assert await journal.find("e3") is None
    assert list(await journal.page(VerdictQuery())) == [second.verdict_json, first.verdict_json]


async def test_journal_keeps_confirmations_per_sink(journal: Journal) -> None:
    """How far a sink has confirmed is remembered for each sink."""
    await journal.confirm("mqtt", 3)
    await journal.confirm("opcua", 9)
    await journal.confirm("mqtt", 4)
    assert (await journal.confirmed("mqtt"), await journal.confirmed("opcua")) == (4, 9)


async def test_journal_stores_the_verdict_on_an_event_that_it_could_not_note(journal: Journal) -> None:
    """An event that came while the journal failed is noted with its verdict."""
    event = arrival("e1")
    answer = answer_to(event, 3)
    await journal.store([(answer, event)])
    known = await journal.accept(event, event.received_at)
    assert known is not None
    assert (known.event, known.seq, known.verdict_json) == (event.event, 3, answer.verdict_json)


async def test_journal_stores_a_batch_of_which_it_noted_a_part(journal: Journal) -> None:
    """In one batch: events that were noted, one that was not, and one that has its verdict already."""
    noted = [await accept(journal, f"e{number}") for number in range(3)]
    first = answer_to(noted[0], 1)
    await journal.store([(first, noted[0])])
    unknown = arrival("unknown")
    batch = [(answer_to(event, seq), event) for seq, event in enumerate([*noted, unknown], start=2)]
    await journal.store(batch)
    entries, _ = await journal.answered(after=0, limit=10)
    expected = [first.verdict_json, *(answer.verdict_json for answer, _ in batch[1:])]
    assert [entry.verdict_json for entry in entries] == expected
    assert await journal.unanswered() == []


async def test_journal_says_how_far_it_read(journal: Journal) -> None:
    """Page by page to the last verdict, over numbers that nobody has used."""
    for seq in (1, 2, 5, 6, 9):
        event = await accept(journal, f"e{seq}")
        await journal.store([(answer_to(event, seq), event)])
    pages = []
    read: int | None = 0
    while read is not None:
        entries, read = await journal.answered(after=read, limit=2)
        pages.append(([entry.seq for entry in entries], read))
    assert pages == [([1, 2], 2), ([5, 6], 6), ([9], None)]


async def test_journal_keeps_the_first_verdict(journal: Journal) -> None:
    """A second verdict on an event changes nothing, whatever it says."""
    event = await accept(journal, "e1")
    first = answer_to(event, 1)
    await journal.store([(first, event)])
    await journal.store([(answer_to(event, 2, Decision.OK), event)])
    assert await journal.find("e1") == first.verdict_json


async def test_journal_names_the_events_that_were_answered_last(journal: Journal) -> None:
    """Newest first, unanswered ones left out."""
    for seq in (1, 2, 3):
        event = await accept(journal, f"e{seq}")
        await journal.store([(answer_to(event, seq), event)])
    await accept(journal, "open")
    assert list(await journal.answered_ids(2)) == ["e3", "e2"]


async def test_journal_keeps_moments_in_time(journal: Journal) -> None:
    """A moment comes back as the same moment, in UTC, to the microsecond, whatever zone a server or a sender is in."""
    event = replace(arrival("e1"), received_at=datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC))
    deadline_at = datetime(2026, 3, 29, 4, 0, tzinfo=timezone(timedelta(hours=2)))
    await journal.accept(event, deadline_at)
    (entry,) = await journal.unanswered()
    assert (entry.received_at, entry.deadline_at) == (event.received_at, deadline_at)
    assert entry.received_at.utcoffset() == timedelta(0)


async def test_journal_keeps_deadlines_on_the_monotonic_clock(journal: Journal) -> None:
    """Setting the wall clock while the service is away makes no event younger."""
    event = await accept(journal, "e1")
    (entry,) = await journal.unanswered()
    assert entry.deadline_monotonic == pytest.approx(event.received_monotonic + 1)


async def test_journal_survives_many_writers_at_once(journal: Journal) -> None:
    """Writes that come together are all kept."""
    events = await asyncio.gather(*(accept(journal, f"e{number}") for number in range(300)))
    await asyncio.gather(*(journal.store([(answer_to(event, seq + 1), event)]) for seq, event in enumerate(events)))
    assert await journal.last_seq() == 300
    assert await journal.unanswered() == []


async def test_sql_journal_is_there_after_a_restart(database: JournalSettings) -> None:
    """Events, verdicts and confirmations outlive the process that wrote them."""
    async with SqlJournal(database, station="line1", clock=CLOCK) as journal:
        event = await accept(journal, "e1")
        await journal.store([(answer_to(event, 41), event)])
        await journal.confirm("mqtt", 41)
    async with SqlJournal(database, station="line1", clock=CLOCK) as journal:
        assert await journal.last_seq() == 41
        assert await journal.confirmed("mqtt") == 41
    async with SqlJournal(database, station="line2", clock=CLOCK) as other:
        assert await other.last_seq() == 0


@pytest.mark.parametrize("is_before", [True, False])
async def test_sql_journal_pages_what_is_stored_while_it_reads(
    database: JournalSettings, tmp_path: Path, is_before: bool
) -> None:
    """Stored just before the database is read, or just behind: there once."""
    async with SqlJournal(database, station="line1", clock=CLOCK, memory=tmp_path) as journal:
        said = [await say(journal, seq) for seq in (1, 2, 3)]
        read = journal._database.read

        async def read_beside_a_commit(work: Work[T]) -> T:
            if is_before:
                await journal.store(said)
            found = await read(work)
            await journal.store(said)
            return found

        journal._database.read = read_beside_a_commit  # type: ignore[method-assign] # the moment in between
        assert list(await journal.page(VerdictQuery())) == [answer.verdict_json for answer, _ in reversed(said)]


async def test_sql_journal_finds_what_was_said_while_its_database_is_away(
    database: JournalSettings, tmp_path: Path
) -> None:
    """It need not be asked."""
    async with SqlJournal(database, station="line1", clock=CLOCK, memory=tmp_path) as journal:
        answer, _ = await say(journal, 1)

        async def away(_: Work[T]) -> T:
            raise JournalError("the database does not answer")

        journal._database.read = away  # type: ignore[assignment, method-assign] # as a server that was stopped
        assert await journal.find("e1") == answer.verdict_json
        with pytest.raises(JournalError):
            await journal.find("e2")


async def test_sql_journal_commits_together_what_comes_together(database: JournalSettings) -> None:
    """A burst of writes costs few commits."""
    async with SqlJournal(database, station="line1", clock=CLOCK) as journal:
        commits: list[object] = []
        sa.event.listen(journal._database._engine, "commit", commits.append)
        await asyncio.gather(*(accept(journal, f"e{number}") for number in range(100)))
        assert 1 <= len(commits) <= 2


async def test_sql_journal_keeps_neighbours_of_a_bad_write(database: JournalSettings) -> None:
    """A seq that is used twice is refused without taking the writes of the same commit along."""
    async with SqlJournal(database, station="line1", clock=CLOCK) as journal:
        events = [await accept(journal, f"e{number}") for number in range(3)]
        outcomes = await asyncio.gather(
            *(journal.store([(answer_to(event, seq), event)]) for event, seq in zip(events, [1, 1, 2], strict=True)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), JournalConflict, type(None)]
        assert await journal.last_seq() == 2


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite:////proc/nowhere/journal.sqlite"])
async def test_sql_journal_refuses_an_unusable_url(url: str) -> None:
    """A journal that cannot be opened is a configuration error in one line."""
    with pytest.raises(UsageError, match=r"^journal\.url: "):
        async with SqlJournal(JournalSettings(url=url), station="line1", clock=CLOCK):
            pass
