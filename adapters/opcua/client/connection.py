"""One session with a PLC's server, from connecting to its loss, used once (docs/decisions/0003).

asyncua can reconnect by itself, but then an old session's node ids, subscriptions and half-sent writes live on in the
new one. Here every connection has an asyncua client of its own that is thrown away with it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import structlog
from asyncua import Client, ua
from asyncua.client.client import UaClientState
from cryptography.exceptions import InvalidSignature

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.diagnosis import (
    Diagnosis,
    PlcFault,
    PlcUnusable,
    TooManyAtOnce,
    TooManySessions,
    diagnose_connect,
    diagnose_probe,
    status_name,
)
from adapters.opcua.client.secure import secure
from service.errors import SinkUnavailable
from service.tasks import was_cancelled

log = structlog.get_logger(__name__)

S = TypeVar("S")
T = TypeVar("T")

_LIMITS: Final = {
    "read": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    "write": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite,
    "monitor": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
}
"""Where a server says how much it takes in one request; 0 is any number (OPC 10000-5, 6.3.11)."""

_ERRORS: Final = (OSError, TimeoutError, ua.UaError)
_KEY_ERRORS: Final = (ValueError, InvalidSignature)  # a certificate or key that the other side cannot use
_WATCHDOG_S: Final = 1.0
_CLOSE_S: Final = 1.0
_SESSION_MS: Final = 30_000
"""A PLC has few sessions: one that a crash left behind must not keep its place for an hour, asyncua's default."""


class PlcConnection:
    """A session that is used once. `lost` tells why it ended; nothing here outlives it.

    What the server does not take in one request goes in several, one after the other, in the order given.
    """

    def __init__(self, access: PlcAccess) -> None:
        # asyncua logs a traceback for every connection that breaks; all of that comes back as a diagnosis in one line
        logging.getLogger("asyncua.client").setLevel(logging.CRITICAL)
        self._access = access
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._most = dict.fromkeys(_LIMITS, sys.maxsize)
        self._subscriptions: set[int] = set()
        watchdog_s = max(_WATCHDOG_S, access.request_timeout_s)  # it waits as long for an answer to its own probe
        self._client = Client(access.endpoint, timeout=access.connect_timeout_s, watchdog_intervall=watchdog_s)
        self._client.name = self._client.description = access.application_name
        self._client.application_uri = access.application_uri
        self._client.session_timeout = _SESSION_MS
        self._client.connection_lost_callback = self._on_lost

    async def open(self) -> None:
        """Open channel and session, and look how much the server takes at once.

        Raises:
            TooManySessions: the server has no place for another one.
            SinkUnavailable: the server or we refuse, or it does not answer.
        """
        try:
            await secure(self._client, self._access)
            await self._client.connect()
        except PlcUnusable:
            raise
        except (*_ERRORS, *_KEY_ERRORS) as exc:
            is_full = isinstance(exc, ua.UaStatusCodeError) and exc.code == ua.StatusCodes.BadTooManySessions
            raise (TooManySessions if is_full else PlcUnusable)(diagnose_connect(exc)) from exc
        except AssertionError as exc:  # asyncua's own, where the server answers an OpenSecureChannel with an error
            raise PlcUnusable(Diagnosis(PlcFault.SECURITY_REFUSED, "the server refused the channel")) from exc
        await self._read_limits()

    async def read(
        self, nodes: Sequence[ua.NodeId], attributes: Sequence[ua.AttributeIds] = (ua.AttributeIds.Value,)
    ) -> list[list[ua.DataValue]]:
        """Read `attributes` of `nodes`, in their order; one row for each node.

        Raises:
            PlcUnusable: the server refuses or does not answer; in the latter case the connection is lost.
        """

        def request(part: list[ua.ReadValueId]) -> Awaitable[Sequence[ua.DataValue]]:
            both = ua.TimestampsToReturn.Both
            return self._client.uaclient.read(ua.ReadParameters(TimestampsToReturn=both, NodesToRead=part))

        wanted = [ua.ReadValueId(NodeId=node, AttributeId=attribute) for node in nodes for attribute in attributes]
        values = await self._in_parts(request, wanted, "read")
        step = len(attributes)
        return [values[start : start + step] for start in range(0, len(values), step)]

    async def browse(self, description: ua.BrowseDescription) -> Sequence[ua.ReferenceDescription]:
        """Return the references that `description` asks for. Raises PlcUnusable."""
        browsing = self._client.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[description]))
        (result,) = await self._one_each(browsing, 1, "browse")
        return list(result.References or ())

    def writes_at_once(self, count: int) -> bool:
        """Tell whether `count` nodes are written in one request, as far as is known."""
        return count <= self._most["write"]

    async def write(self, values: Mapping[ua.NodeId, ua.Variant], *, whole: bool = False) -> list[ua.StatusCode]:
        """Write `values` in their order; the result has one status for each.

        Raises:
            TooManyAtOnce: they are one request too large for the server, and must go `whole`.
            PlcUnusable: the server refuses the request or does not answer.
        """

        def request(part: list[ua.WriteValue]) -> Awaitable[Sequence[ua.StatusCode]]:
            return self._client.uaclient.write(ua.WriteParameters(NodesToWrite=part))

        # neither status nor timestamps: many PLCs answer those with BadWriteNotSupported
        wanted = [
            ua.WriteValue(node, ua.AttributeIds.Value, Value=ua.DataValue(variant, StatusCode=None))
            for node, variant in values.items()
        ]
        return await self._in_parts(request, wanted, "write", whole=whole)

    async def subscribe(
        self, parameters: ua.CreateSubscriptionParameters, on_publish: Callable[[ua.PublishResult], None]
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription; `on_publish` is called on the loop with every publish response.

        Raises:
            PlcUnusable: the server refuses the subscription or does not answer.
        """
        made = await self._request(self._client.uaclient.create_subscription(parameters, on_publish), "subscribe")
        self._subscriptions.add(int(made.SubscriptionId))
        publishing = self._client.uaclient._publish_task  # noqa: SLF001 - asyncua tells nobody of its end
        if publishing is not None:
            publishing.add_done_callback(self._on_no_more_published)
        return made

    async def monitor(
        self, subscription: int, items: Sequence[ua.MonitoredItemCreateRequest]
    ) -> list[ua.MonitoredItemCreateResult]:
        """Add items to a subscription, in their order; one result for each. Raises PlcUnusable."""

        def request(part: list[ua.MonitoredItemCreateRequest]) -> Awaitable[Sequence[ua.MonitoredItemCreateResult]]:
            both = ua.TimestampsToReturn.Both
            wanted = ua.CreateMonitoredItemsParameters(ua.UInt32(subscription), both, part)
            return self._client.uaclient.create_monitored_items(wanted)

        return await self._in_parts(request, items, "monitor")

    async def unsubscribe(self, subscription: int) -> None:
        """Delete a subscription, for the others on this connection stay. Raises SinkUnavailable."""
        self._subscriptions.discard(subscription)
        await self._request(self._client.uaclient.delete_subscriptions([subscription]), "unsubscribe")

    def abort(self, diagnosis: Diagnosis) -> None:
        """End the connection now, without a word to the server."""
        self._lose(str(diagnosis))
        protocol = self._client.uaclient.protocol
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()

    async def close(self, reason: str) -> None:
        """Say good-bye where there is somebody, and let go of everything, within a second."""
        self._lose(reason)
        # in a task of its own: asyncua takes a cancellation that comes meanwhile for that of its own tasks
        goodbye = asyncio.create_task(self._client.disconnect(), name="plc good-bye")
        goodbye.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait({goodbye}, timeout=_CLOSE_S)
        finally:
            goodbye.cancel()
            self._client.disconnect_socket()

    async def give_back(self) -> None:
        """Close the session that the server may still hold for this connection, which was lost and is closed.

        Only from a channel on which it was activated again may it be closed (OPC 10000-4, 6.7). Nothing else is made of
        it: its subscriptions and what was asked on it go with it.
        """
        client = self._client
        try:
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            client.uaclient.session.rebind_authentication_token()
            await client.activate_session(self._access.username, self._access.password)
            await client.close_session()
            await client.close_secure_channel()
        except (*_ERRORS, *_KEY_ERRORS, AssertionError) as exc:  # the last as above
            log.info("plc_session_not_given_back", reason=str(diagnose_connect(exc)))
        else:
            log.info("plc_session_given_back")
        finally:
            client.disconnect_socket()

    async def _read_limits(self) -> None:
        try:
            rows = await self.read([ua.NodeId(ua.Int32(identifier)) for identifier in _LIMITS.values()])
        except PlcUnusable:
            if self.lost.done():
                raise
            return  # it does not say; then a request that is too large for it tells
        for what, (value,) in zip(_LIMITS, rows, strict=True):
            most = None if value.Value is None else value.Value.Value
            if isinstance(most, int) and most > 0:
                self._most[what] = most

    async def _in_parts(
        self,
        request: Callable[[list[S]], Awaitable[Sequence[T]]],
        wanted: Sequence[S],
        what: str,
        *,
        whole: bool = False,
    ) -> list[T]:
        """Return the results of a request for all that is wanted; one too large for the server is halved, or raises."""
        results: list[T] = []
        while part := list(wanted[len(results) :][: self._most[what]]):
            try:
                results += await self._one_each(request(part), len(part), what)
            except TooManyAtOnce:
                if len(part) == 1:
                    raise
                self._most[what] = len(part) // 2
                log.info("plc_takes_fewer", request=what, at_most=self._most[what])
                if whole:
                    raise
        return results

    async def _one_each(self, answer: Awaitable[Sequence[T]], count: int, what: str) -> list[T]:
        """Return the results of a request for `count` things. Raises PlcUnusable, also where they are fewer or more."""
        results = list(await self._request(answer, what) or ())  # null on the wire is None, whatever asyncua says
        if len(results) != count:
            diagnosis = Diagnosis(PlcFault.SERVER_REFUSED, f"{what}: {len(results)} results for {count}")
            self.abort(diagnosis)
            raise PlcUnusable(diagnosis)
        return results

    async def _request(self, answer: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._access.request_timeout_s):
                return await answer
        except (TimeoutError, asyncio.CancelledError) as exc:
            # where the limit runs out as an answer comes, asyncua raises a cancellation of its own kind, and
            # asyncio.timeout does not know it for its own: it must not end the task, which nobody has cancelled
            if not isinstance(exc, TimeoutError) and was_cancelled():
                raise
            # what was asked may still be carried out: only a new connection is in a known state
            limit = f"{self._access.request_timeout_s * 1000:g} ms"
            diagnosis = Diagnosis(PlcFault.NO_ANSWER, f"no answer to a {what} within {limit}")
            self.abort(diagnosis)
            raise PlcUnusable(diagnosis) from exc
        except ua.UaStatusCodeError as exc:
            name = status_name(ua.StatusCode(ua.UInt32(exc.code)))
            refusal = TooManyAtOnce if exc.code == ua.StatusCodes.BadTooManyOperations else PlcUnusable
            raise refusal(Diagnosis(PlcFault.SERVER_REFUSED, f"{what}: {name}")) from exc
        except (OSError, ua.UaError) as exc:
            self.abort(diagnose_connect(exc))
            raise SinkUnavailable(self.lost.result()) from exc

    async def _on_lost(self, error: Exception) -> None:
        if self._client.state is UaClientState.CONNECTED:  # asyncua's own probe got no answer in time
            self.abort(diagnose_probe(error))
        else:
            self._lose(str(Diagnosis(PlcFault.CONNECTION_LOST, "the server closed the connection")))

    def _on_no_more_published(self, ended: asyncio.Task[None]) -> None:
        is_current = self._client.uaclient._publish_task in (ended, None)  # noqa: SLF001 - as above
        if is_current and self._subscriptions and not self.lost.done():
            self.abort(Diagnosis(PlcFault.CONNECTION_LOST, "the server knows no subscription of this session any more"))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
