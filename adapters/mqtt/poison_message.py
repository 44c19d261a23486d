"""The message at which a broker closes the connection, where it has not said beforehand what it does not take."""

from __future__ import annotations

from adapters.mqtt.packets import Outgoing

_LOSSES = 3
"""So many connections in a row may be closed by the other side with the same message as the oldest in flight.

Once may be a broker that was killed at that moment, twice a line that flaps. For a third time it would have to happen
between CONNACK, a confirmed subscription and a PUBACK that is a millisecond away, with the message alone in flight
(`PoisonMessageDetector.one_by_one`). More tries would cost more than a message that is given up in error: each of them
leaves the gate commands of later parts behind it, and what is given up stays in the journal, its own gate command going
out.
"""

_ONE_BY_ONE = 20
"""As many as may have been in flight when the connection was lost: the poison is among the first that come again."""


class PoisonMessageDetector:
    """Finds the message at which a broker closes one connection after the other, so that others need not wait for it.

    An MQTT 3.1.1 broker has no way to announce its largest packet, and no broker has one for the levels of a topic that
    it takes: they close the connection, and would close the next one. Only what was sent on a connection that the
    broker had accepted is suspected, and only where the other side closed it: a broker that is away accepts none, and
    one that is silent (`Connection.abort`) may be waiting for a disk, and would answer the next message no better.

    Shared by the connections to a broker that follow each other.
    """

    def __init__(self) -> None:
        self._suspect: tuple[str, bytes] | None = None
        self._losses = 0
        self._one_by_one = 0

    @property
    def one_by_one(self) -> bool:
        """Tell whether only one message may be in flight, so that what is lost with it names it.

        What was in flight behind it may hide that those before it were confirmed: a write to a closed socket ends the
        connection before the confirmations that wait there are read.
        """
        return self._one_by_one > 0

    def lost_at(self, oldest: Outgoing) -> None:
        """Note that the other side closed the connection with `oldest` unconfirmed."""
        self._losses = self._losses + 1 if self._is_suspect(oldest) else 1
        self._suspect = (oldest.topic, oldest.payload)
        self._one_by_one = _ONE_BY_ONE

    def confirmed(self, message: Outgoing) -> None:
        """Note that the broker has answered `message`: it is none that it closes the connection at."""
        self._one_by_one = max(0, self._one_by_one - 1)
        if self._is_suspect(message):
            self._suspect, self._losses = None, 0

    def refusal(self, message: Outgoing) -> str | None:
        """Say why `message` is not offered to the broker again; None where it may be."""
        if self._losses < _LOSSES or not self._is_suspect(message):
            return None
        return f"given up: {self._losses} times in a row the broker closed the connection at it"

    def _is_suspect(self, message: Outgoing) -> bool:
        return (message.topic, message.payload) == self._suspect
