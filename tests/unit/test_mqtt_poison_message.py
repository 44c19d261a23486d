"""Which message is given up when a broker closes one connection after the other."""

from __future__ import annotations

from adapters.mqtt.packets import Outgoing
from adapters.mqtt.poison_message import PoisonMessageDetector

LARGE = Outgoing("verdict", b"large")
SMALL = Outgoing("verdict", b"small")


def _lost(detector: PoisonMessageDetector, *oldest: Outgoing) -> None:
    for message in oldest:
        detector.lost_at(message)


def test_message_is_given_up_at_the_third_loss_in_a_row() -> None:
    """Not before, and no other with it; a new try is a new object with the same words."""
    detector = PoisonMessageDetector()
    _lost(detector, LARGE, LARGE)
    assert detector.refusal(LARGE) is None
    _lost(detector, LARGE)
    assert "3 times in a row" in str(detector.refusal(Outgoing("verdict", b"large", expires_monotonic=1.0)))
    assert detector.refusal(SMALL) is None


def test_losses_with_another_message_or_a_confirmation_between_them_begin_anew() -> None:
    """A line that flaps loses now this one, now that one; and what was once accepted will be so again."""
    detector = PoisonMessageDetector()
    _lost(detector, LARGE, LARGE, SMALL, LARGE, LARGE)
    assert detector.refusal(LARGE) is None
    detector.confirmed(LARGE)
    _lost(detector, LARGE, LARGE)
    assert detector.refusal(LARGE) is None


def test_confirmation_of_others_acquits_nobody() -> None:
    """A status goes out on every new connection, before the poison message comes again."""
    detector = PoisonMessageDetector()
    for _ in range(3):
        detector.confirmed(SMALL)
        _lost(detector, LARGE)
    assert detector.refusal(LARGE) is not None


def test_messages_go_one_by_one_after_a_loss_only() -> None:
    """As many as may have been in flight then."""
    detector = PoisonMessageDetector()
    seen = [detector.one_by_one]
    _lost(detector, LARGE)
    for _ in range(20):
        seen.append(detector.one_by_one)
        detector.confirmed(SMALL)
    assert [*seen, detector.one_by_one] == [False, *[True] * 20, False]
