"""What can be wrong between the service and a PLC, each under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from asyncua import ua

from service.errors import SinkUnavailable, one_line


class PlcFault(StrEnum):
    """Name of a fault: the first word of its text in the status, on `/readyz` and in the log."""

    UNREACHABLE = "unreachable"
    NO_ANSWER = "no_answer"
    CONNECTION_LOST = "connection_lost"
    SECURITY_REFUSED = "security_refused"
    CERTIFICATE_REFUSED = "certificate_refused"
    LOGIN_REFUSED = "login_refused"
    SERVER_REFUSED = "server_refused"
    NAMESPACE_UNKNOWN = "namespace_unknown"
    NODE_UNKNOWN = "node_unknown"
    NOT_A_VARIABLE = "not_a_variable"
    SAME_NODE = "same_node"
    ACCESS_DENIED = "access_denied"
    TYPE_UNSUITABLE = "type_unsuitable"
    WRITE_REFUSED = "write_refused"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One fault; `word` is the key of `[opcua.client]` that it is about, where it is about one."""

    fault: PlcFault
    text: str
    word: str = ""

    def __str__(self) -> str:
        return f"{self.fault}: {self.word + ': ' if self.word else ''}{self.text}"


class PlcUnusable(SinkUnavailable):
    """The PLC cannot be used now; the text is every diagnosis in one line."""

    def __init__(self, *diagnoses: Diagnosis) -> None:
        super().__init__("; ".join(map(str, diagnoses)))
        self.diagnoses = diagnoses


class TooManyAtOnce(PlcUnusable):
    """The server would take less in one request."""


class TooManySessions(PlcUnusable):
    """The server has no place for another session."""


class WriteRefused(PlcUnusable):
    """The server took the request, and refused some of its nodes: there is one diagnosis for each."""


_BY_STATUS: Final = {
    **dict.fromkeys(
        (
            ua.StatusCodes.BadSecurityPolicyRejected,
            ua.StatusCodes.BadSecurityModeRejected,
            ua.StatusCodes.BadSecurityModeInsufficient,
            ua.StatusCodes.BadSecurityChecksFailed,
        ),
        PlcFault.SECURITY_REFUSED,
    ),
    **dict.fromkeys(
        (
            ua.StatusCodes.BadIdentityTokenInvalid,
            ua.StatusCodes.BadIdentityTokenRejected,
            ua.StatusCodes.BadUserAccessDenied,
            ua.StatusCodes.BadUserSignatureInvalid,
        ),
        PlcFault.LOGIN_REFUSED,
    ),
    **dict.fromkeys(
        (ua.StatusCodes.BadTimeout, ua.StatusCodes.BadRequestTimeout),
        PlcFault.NO_ANSWER,
    ),
}


def status_name(code: ua.StatusCode | None) -> str:
    """Return the name of a status code, e.g. "BadNodeIdUnknown"."""
    return "Good" if code is None else str(code.name)


def diagnose_probe(error: Exception) -> Diagnosis:
    """Say why a connection is of no use where asyncua's own probe of it failed."""
    if isinstance(error, ua.UaStatusCodeError):  # it does answer, as where it has closed the session
        status = status_name(ua.StatusCode(ua.UInt32(error.code)))
        return Diagnosis(PlcFault.CONNECTION_LOST, f"the server no longer serves this session: {status}")
    return Diagnosis(PlcFault.NO_ANSWER, f"the server does not answer ({type(error).__name__})")


def diagnose_connect(error: Exception) -> Diagnosis:
    """Say why no session could be opened."""
    if isinstance(error, ua.UaStatusCodeError):
        name = status_name(ua.StatusCode(ua.UInt32(error.code)))
        fault = _BY_STATUS.get(error.code, PlcFault.SERVER_REFUSED)
        return Diagnosis(PlcFault.CERTIFICATE_REFUSED if name.startswith("BadCertificate") else fault, name)
    if isinstance(error, TimeoutError):
        return Diagnosis(PlcFault.NO_ANSWER, "the server does not answer")
    if isinstance(error, ConnectionRefusedError):
        return Diagnosis(PlcFault.UNREACHABLE, "nothing listens there")
    if isinstance(error, ConnectionError):
        return Diagnosis(PlcFault.CONNECTION_LOST, "the server closed the connection")
    if isinstance(error, OSError):
        return Diagnosis(PlcFault.UNREACHABLE, one_line(error))
    fault, text = PlcFault.SERVER_REFUSED, one_line(error)
    if "No matching endpoints" in text:  # asyncua has no class for it, and names the mode by its number
        fault, text = PlcFault.SECURITY_REFUSED, "the server offers no endpoint with this policy and mode"
    return Diagnosis(fault, text)
