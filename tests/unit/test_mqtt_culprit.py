"""Which message is given up when a broker closes one connection after the other."""

from __future__ import annotations

from adapters.mqtt.culprit import Culprit
from adapters.mqtt.packets import Outgoing

LARGE = Outgoing("verdict", b"large")
SMALL = Outgoing("verdict", b"small")


def _lost(culprit: Culprit, *oldest: Outgoing) -> None:
    for message in oldest:
        culprit.lost_at(message)


def test_message_is_given_up_at_the_third_loss_in_a_row() -> None:
    """Not before, and no other with it; a new try is a new object with the same words."""
    culprit = Culprit()
    _lost(culprit, LARGE, LARGE)
    assert culprit.refusal(LARGE) is None
    _lost(culprit, LARGE)
    assert "3 times in a row" in str(culprit.refusal(Outgoing("verdict", b"large", expires_monotonic=1.0)))
    assert culprit.refusal(SMALL) is None


def test_losses_with_another_message_or_a_confirmation_between_them_begin_anew() -> None:
    """A line that flaps loses now this one, now that one; and what was once accepted will be so again."""
    culprit = Culprit()
    _lost(culprit, LARGE, LARGE, SMALL, LARGE, LARGE)
    assert culprit.refusal(LARGE) is None
    culprit.confirmed(LARGE)
    _lost(culprit, LARGE, LARGE)
    assert culprit.refusal(LARGE) is None


def test_confirmation_of_others_acquits_nobody() -> None:
    """A status goes out on every new connection, before the culprit comes again."""
    culprit = Culprit()
    for _ in range(3):
        culprit.confirmed(SMALL)
        _lost(culprit, LARGE)
    assert culprit.refusal(LARGE) is not None


def test_messages_go_one_by_one_after_a_loss_only() -> None:
    """As many as may have been in flight then."""
    culprit = Culprit()
    seen = [culprit.one_by_one]
    _lost(culprit, LARGE)
    for _ in range(20):
        seen.append(culprit.one_by_one)
        culprit.confirmed(SMALL)
    assert [*seen, culprit.one_by_one] == [False, *[True] * 20, False]
