"""The last verdicts that the tags have shown."""

from __future__ import annotations

from dataclasses import replace

from adapters.opcua.server.ring import ResultRing
from schemas.messages import Decision, Reason
from tests.support.opcua import answer, verdict


def test_what_the_journal_can_no_longer_read_hides_nothing_else() -> None:
    """Neither what is no verdict nor what is no text."""
    texts = [verdict(seq).to_json() for seq in (3, 1)]
    ring = ResultRing([texts[0], b"{", b"\xff", b"{}", texts[1]])
    assert ring.texts == tuple(text.decode() for text in texts)


def test_verdict_of_an_earlier_run_is_timed_when_it_is_told_and_not_when_it_is_repeated() -> None:
    """One that had not reached the tags when the service went down is late now; one that had is as it was."""
    said = verdict(1, Decision.ERROR, reason=Reason.FRAME_MISSING)
    told, repeated = answer(said, in_s=-1.0), answer(said, in_s=-1.0, repeated=True)
    now = told.deadline_monotonic + 1.0
    assert ResultRing([said.to_json()]).show(repeated, now).deadline_missed is False
    ring = ResultRing([said.to_json()])
    assert [ring.show(told, now).deadline_missed, ring.show(repeated, now).deadline_missed] == [True, True]
    shown = ResultRing().show(replace(told, decided_monotonic=now - 0.5), now)
    assert shown.latency_ms == said.latency_ms + 500.0


def test_ring_keeps_the_last_eight_by_their_number() -> None:
    """One that comes late, or is said again when it has left the ring, is no newer for that."""
    ring = ResultRing()
    said = {seq: verdict(seq) for seq in range(1, 12)}
    for seq in (2, 1, *range(3, 10)):
        ring.show(answer(said[seq]), 0.0)
    assert ring.texts == tuple(said[seq].to_json().decode() for seq in range(9, 1, -1))
    ring.show(answer(said[1], repeated=True), 0.0)
    for seq in (10, 11):
        ring.show(answer(said[seq]), 0.0)
    assert ring.texts == tuple(said[seq].to_json().decode() for seq in range(11, 3, -1))
