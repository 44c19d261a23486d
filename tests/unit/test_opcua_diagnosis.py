"""What is said of a connection that is of no use any more."""

from __future__ import annotations

import pytest
from asyncua import ua

from adapters.opcua.client.diagnosis import diagnose_connect, diagnose_probe


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "no_answer: the server does not answer (TimeoutError)"),
        (OSError(), "no_answer: the server does not answer (OSError)"),
        (
            ua.UaStatusCodeError(ua.StatusCodes.BadSessionClosed),  # type: ignore[no-untyped-call] # theirs
            "connection_lost: the server no longer serves this session: BadSessionClosed",
        ),
    ],
)
def test_server_that_answers_with_a_status_is_not_said_to_be_silent(error: Exception, expected: str) -> None:
    """It has closed the session, say; who looks for the cause finds the status."""
    assert str(diagnose_probe(error)) == expected


def test_endpoint_that_there_is_not_is_told_in_words() -> None:
    """The library has the mode as a number."""
    error = ua.UaError("No matching endpoints: 1, http://opcfoundation.org/UA/SecurityPolicy#None")
    assert str(diagnose_connect(error)) == "security_refused: the server offers no endpoint with this policy and mode"
