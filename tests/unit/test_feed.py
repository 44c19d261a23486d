"""What the pages know of parts and their gate."""

from __future__ import annotations

import time

from adapters.hmi.feed import LENGTH, Feed, read_verdicts
from schemas.messages import Decision, Gate
from tests.support.hmi import make_answer, make_verdict


def test_empty_feed_has_no_newest_part() -> None:
    """Nothing was judged, and the gate was told nothing."""
    recent = Feed().recent
    assert (recent.newest, recent.at_gate, recent.find(1)) == (None, (), None)


def test_part_is_kept_with_what_its_gate_was_told() -> None:
    """PASS in time only; REJECT at any time; nothing of a replayed part and of one before the restart."""
    feed = Feed()
    feed.start([make_verdict(1)])
    for answer in (
        make_answer(make_verdict(2)),
        make_answer(make_verdict(3), left_s=-1),
        make_answer(make_verdict(4, Decision.DAMAGED), left_s=-1),
        make_answer(make_verdict(5, replayed=True)),
    ):
        feed.add(answer, time.monotonic())
    assert [part.gate for part in feed.recent.parts] == [None, Gate.PASS, Gate.REJECT, Gate.REJECT, None]
    assert [part.too_late for part in feed.recent.parts] == [False, False, True, False, False]
    assert [part.past for part in feed.recent.parts] == [True, False, False, False, False]
    assert [part.verdict.seq for part in feed.recent.at_gate] == [2, 3, 4]


def test_long_replay_does_not_displace_what_the_gate_was_told() -> None:
    """The lamp stays."""
    feed = Feed()
    feed.add(make_answer(make_verdict(1)), time.monotonic())
    for seq in range(2, LENGTH + 3):
        feed.add(make_answer(make_verdict(seq, replayed=True)), time.monotonic())
    assert len(feed.recent.parts) == LENGTH
    assert [part.verdict.seq for part in feed.recent.at_gate] == [1]


def test_rotten_row_is_passed_over() -> None:
    """What the others say can be shown all the same."""
    verdicts = [make_verdict(1), make_verdict(2)]
    assert verdicts == read_verdicts([verdicts[0].to_json(), b"{}", b"rot", verdicts[1].to_json()])
