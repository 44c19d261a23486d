"""The channel of one connection: in what chunks it speaks, how much its client can take, and when it ends.

asyncua 2.1 cuts an answer into chunks as small as the client says, on the event loop: a byte each is a minute for 4 MB.
It sends answers of any length to whoever said what is too long, grants every lifetime, and never ends a channel.
"""

from __future__ import annotations

import math
import time
from typing import Final, cast

from asyncua import ua
from asyncua.common.connection import MessageChunk, SecureConnection, TransportLimits
from asyncua.common.utils import Buffer, ServiceError
from asyncua.crypto.security_policies import SecurityPolicyNone
from cryptography.exceptions import InvalidSignature

_MIN_CHUNK: Final = 8192  # bytes (OPC 10000-6, 7.1.2.3)
_MAX_URL: Final = 4096  # bytes (the same)
_KINDS: Final = (
    *(ua.MessageType.Hello, ua.MessageType.Error),
    *(ua.MessageType.SecureOpen, ua.MessageType.SecureMessage, ua.MessageType.SecureClose),
)
_OF_A_CHANNEL: Final = (ua.MessageType.SecureMessage, ua.MessageType.SecureClose)
_MIN_LIFETIME_MS: Final = 10_000
_MAX_LIFETIME_MS: Final = 3_600_000
_OVERLAP: Final = 1.25  # a token is good for a quarter of its lifetime more (OPC 10000-4, 5.5.2)


class Unfit(ServiceError):
    """What ends a connection, with the status and the words to tell it so; its cause is for the log alone."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason = reason


class StationChannel(SecureConnection):
    """asyncua's channel, which begins with one Hello that can be lived with and ends where nobody renews it."""

    def __init__(self, limits: TransportLimits) -> None:
        super().__init__(SecurityPolicyNone(), limits)  # type: ignore[no-untyped-call] # asyncua leaves it untyped
        self.ends_at = math.inf  # of time.monotonic()
        self._is_greeted = False
        self._longest_answer = 0  # bytes, and chunks; 0: any (OPC 10000-6, 7.1.2.3)
        self._most_chunks = 0

    def receive_from_header_and_body(self, header: ua.Header, body: Buffer) -> object:
        """Return the message that is whole now. Raises Unfit where it must not be believed."""
        kind = cast("bytes", header.MessageType)
        if kind not in _KINDS:
            raise Unfit(ua.StatusCodes.BadTcpMessageTypeInvalid, "no message of a client begins so")
        if (kind == ua.MessageType.Hello) == self._is_greeted:
            raise Unfit(ua.StatusCodes.BadTcpMessageTypeInvalid, "a connection begins with one Hello")
        if kind in _OF_A_CHANNEL and not (self.is_open() and header.ChannelId == self.security_token.ChannelId):
            raise Unfit(ua.StatusCodes.BadTcpSecureChannelUnknown, "there is no such channel")
        try:
            message: object = super().receive_from_header_and_body(header, body)
        except (ServiceError, ua.UaStatusCodeError):
            raise
        except (ua.UaError, InvalidSignature, ValueError) as exc:  # one status for all of them: it says no more
            raise Unfit(ua.StatusCodes.BadSecurityChecksFailed, "its security does not hold") from exc
        if isinstance(message, ua.Hello):
            self._greet(message)
        return message

    def select_policy(
        self, uri: str, peer_certificate: bytes | None, mode: ua.MessageSecurityMode | None = None
    ) -> None:
        """Take one of the server's policies; asked first without the mode, which is known when the message is read."""
        try:
            super().select_policy(uri, peer_certificate, mode)
        except ua.UaError as exc:
            if mode is None:
                raise Unfit(ua.StatusCodes.BadSecurityPolicyRejected, "its security policy is not offered") from exc
            raise Unfit(ua.StatusCodes.BadSecurityModeRejected, "its security mode is not offered") from exc

    def open(self, params: ua.OpenSecureChannelParameters, server: object) -> ua.OpenSecureChannelResult:
        """Open the channel or renew its token, for as long as is asked for within bounds."""
        wanted_ms = params.RequestedLifetime or _MAX_LIFETIME_MS
        params.RequestedLifetime = ua.UInt32(min(max(wanted_ms, _MIN_LIFETIME_MS), _MAX_LIFETIME_MS))
        self.ends_at = time.monotonic() + params.RequestedLifetime / 1000 * _OVERLAP
        return super().open(params, server)

    def takes(self, size: int) -> bool:
        """Tell whether the client said that it can take an answer of so many bytes."""
        if self._longest_answer and size > self._longest_answer:
            return False
        if not self._most_chunks:
            return True
        in_chunk = MessageChunk.max_body_size(self.security_policy.symmetric_cryptography, self._limits.max_send_buffer)
        return size <= self._most_chunks * in_chunk

    def _greet(self, hello: ua.Hello) -> None:
        smallest = min(hello.ReceiveBufferSize, hello.SendBufferSize)
        if smallest < _MIN_CHUNK:
            reason = f"a buffer of {smallest} bytes, {_MIN_CHUNK} are the least"
            raise Unfit(ua.StatusCodes.BadConnectionRejected, reason)
        if len((hello.EndpointUrl or "").encode()) > _MAX_URL:
            raise Unfit(ua.StatusCodes.BadTcpEndpointUrlInvalid, f"an EndpointUrl of more than {_MAX_URL} bytes")
        self._longest_answer, self._most_chunks = hello.MaxMessageSize, hello.MaxChunkCount
        self._is_greeted = True
