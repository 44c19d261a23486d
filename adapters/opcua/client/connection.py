"""One session with a PLC's server, from connecting to its loss, used once (docs/decisions/0003).

asyncua can reconnect by itself, but then an old session's node ids, subscriptions and half-sent writes live on in the
new one. Here every connection has an asyncua client of its own that is thrown away with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from asyncua import Client, ua
from asyncua.client.client import UaClientState
from cryptography.exceptions import InvalidSignature

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable, diagnose_connect, status_name
from adapters.opcua.client.secure import secure
from service.errors import SinkUnavailable
from service.tasks import was_cancelled

T = TypeVar("T")

_ERRORS: Final = (OSError, TimeoutError, ua.UaError)
_WATCHDOG_S: Final = 1.0
_CLOSE_S: Final = 1.0
_SESSION_MS: Final = 30_000
"""A PLC has few sessions: one that a crash left behind must not keep its place for an hour, asyncua's default."""


class PlcConnection:
    """A session that is used once. `lost` tells why it ended; nothing here outlives it."""

    def __init__(self, access: PlcAccess) -> None:
        # asyncua logs a traceback for every connection that breaks; all of that comes back as a diagnosis in one line
        logging.getLogger("asyncua.client").setLevel(logging.CRITICAL)
        self._access = access
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = Client(access.endpoint, timeout=access.connect_timeout_s, watchdog_intervall=_WATCHDOG_S)
        self._client.name = self._client.description = access.application_name
        self._client.application_uri = access.application_uri
        self._client.session_timeout = _SESSION_MS
        self._client.connection_lost_callback = self._on_lost

    async def open(self) -> None:
        """Open channel and session. Raises PlcUnusable where the server or we refuse, or it does not answer."""
        try:
            await secure(self._client, self._access)
            await self._client.connect()
        except PlcUnusable:
            raise
        except (*_ERRORS, ValueError, InvalidSignature) as exc:  # the last two: a certificate or key it cannot use
            raise PlcUnusable(diagnose_connect(exc)) from exc
        except AssertionError as exc:  # asyncua's own, where the server answers an OpenSecureChannel with an error
            raise PlcUnusable(Diagnosis(PlcFault.SECURITY_REFUSED, "the server refused the channel")) from exc

    async def read(
        self, nodes: Sequence[ua.NodeId], attributes: Sequence[ua.AttributeIds] = (ua.AttributeIds.Value,)
    ) -> list[list[ua.DataValue]]:
        """Read `attributes` of `nodes` in one request; one row for each node.

        Raises:
            PlcUnusable: the server refuses or does not answer; in the latter case the connection is lost.
        """
        parameters = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Both)
        parameters.NodesToRead = [
            ua.ReadValueId(NodeId=node, AttributeId=attribute) for node in nodes for attribute in attributes
        ]
        values = await self._one_each(self._client.uaclient.read(parameters), len(parameters.NodesToRead), "read")
        step = len(attributes)
        return [values[start : start + step] for start in range(0, len(values), step)]

    async def browse(self, description: ua.BrowseDescription) -> Sequence[ua.ReferenceDescription]:
        """Return the references that `description` asks for. Raises PlcUnusable."""
        browsing = self._client.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[description]))
        (result,) = await self._one_each(browsing, 1, "browse")
        return list(result.References or ())

    async def write(self, values: Mapping[ua.NodeId, ua.Variant]) -> list[ua.StatusCode]:
        """Write `values` in one request; the result has one status for each. Raises PlcUnusable."""
        parameters = ua.WriteParameters()
        for node, variant in values.items():
            # neither status nor timestamps: many PLCs answer those with BadWriteNotSupported
            value = ua.DataValue(variant, StatusCode=None)
            parameters.NodesToWrite.append(ua.WriteValue(node, ua.AttributeIds.Value, Value=value))
        return await self._one_each(self._client.uaclient.write(parameters), len(values), "write")

    async def subscribe(
        self, parameters: ua.CreateSubscriptionParameters, on_publish: Callable[[ua.PublishResult], None]
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription; `on_publish` is called on the loop with every publish response.

        Raises:
            PlcUnusable: the server refuses the subscription or does not answer.
        """
        return await self._request(self._client.uaclient.create_subscription(parameters, on_publish), "subscribe")

    async def monitor(
        self, subscription: int, items: Sequence[ua.MonitoredItemCreateRequest]
    ) -> list[ua.MonitoredItemCreateResult]:
        """Add items to a subscription; one result for each. Raises PlcUnusable."""
        wanted = ua.CreateMonitoredItemsParameters(ua.UInt32(subscription), ua.TimestampsToReturn.Both, list(items))
        return await self._one_each(self._client.uaclient.create_monitored_items(wanted), len(items), "monitor")

    async def unsubscribe(self, subscription: int) -> None:
        """Delete a subscription, for the others on this connection stay. Raises SinkUnavailable."""
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
            raise PlcUnusable(Diagnosis(PlcFault.SERVER_REFUSED, f"{what}: {name}")) from exc
        except (OSError, ua.UaError) as exc:
            self.abort(diagnose_connect(exc))
            raise SinkUnavailable(self.lost.result()) from exc

    async def _on_lost(self, error: Exception) -> None:
        if self._client.state is UaClientState.CONNECTED:  # asyncua's own probe got no answer in time
            self.abort(Diagnosis(PlcFault.NO_ANSWER, f"the server does not answer ({type(error).__name__})"))
        else:
            self._lose(str(Diagnosis(PlcFault.CONNECTION_LOST, "the server closed the connection")))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
