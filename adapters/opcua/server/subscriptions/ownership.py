"""Whose a subscription is: the session's that made it, or that took it over, and nobody else's.

asyncua 2.1 asks nobody. Subscriptions are numbered from 78, and any session could end, change, silence or take over
those of the PLC, and acknowledge messages that the PLC has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession

from adapters.opcua.server.subscriptions.service import StationSubscriptions

_NOBODYS: Final = 0  # no subscription has it (OPC 10000-4, 7.19), so asyncua itself refuses what names it


class OwnerSession(InternalSession):
    """A session to which the subscriptions of others do not exist, unless it may take them over."""

    subscription_service: StationSubscriptions

    def may_take_over(self, holder: InternalSession) -> bool:  # noqa: ARG002 - for those who know their users
        """Tell whether the subscriptions of another session may become this one's."""
        return False

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription, which belongs to this session."""
        made = await super().create_subscription(params, callback, request_callback)
        self.subscription_service.give(made.SubscriptionId, self)
        return made

    async def transfer_subscriptions(  # type: ignore[override] # as asyncua's own
        self, params: ua.TransferSubscriptionsParameters, callback: Callable[..., Any]
    ) -> list[ua.TransferResult]:
        """Take over those subscriptions that may be (OPC 10000-4, 5.13.7)."""
        results = []
        for subscription_id in params.SubscriptionIds:
            if subscription_id in self.subscription_service.subscriptions and not self._may_have(subscription_id):
                results.append(ua.TransferResult(StatusCode=_status(ua.StatusCodes.BadUserAccessDenied)))
                continue
            one = replace(params, SubscriptionIds=[subscription_id])
            (result,) = await super().transfer_subscriptions(one, callback)
            if result.StatusCode.is_good():
                self.subscription_service.give(subscription_id, self)
                if params.SendInitialValues:
                    self.subscription_service.repeat_values(subscription_id)
            results.append(result)
        return results

    async def delete_subscriptions(self, ids: list[int]) -> list[ua.StatusCode]:
        """End subscriptions of this session."""
        return await super().delete_subscriptions(self._own(ids))

    async def set_publishing_mode(self, params: ua.SetPublishingModeParameters) -> list[ua.StatusCode]:
        """Let subscriptions of this session speak or be silent."""
        return await super().set_publishing_mode(replace(params, SubscriptionIds=self._own(params.SubscriptionIds)))

    def publish(self, acks: Iterable[ua.SubscriptionAcknowledgement] | None = None) -> tuple[int, list[ua.StatusCode]]:
        """Return how many subscriptions the session has, and what became of its acknowledgements.

        Raises ServiceError where it has none.
        """
        count = sum(one.session_id == self.session_id for one in self.subscription_service.subscriptions.values())
        if not count:
            raise ServiceError(ua.StatusCodes.BadNoSubscription)
        acks = list(acks or ())
        own = self._own(ack.SubscriptionId for ack in acks)
        _, results = super().publish(replace(ack, SubscriptionId=one) for ack, one in zip(acks, own, strict=True))
        return count, results

    def republish(self, params: ua.RepublishParameters) -> ua.NotificationMessage:
        """Return a message that was not acknowledged.

        Raises ServiceError where there is none: node-opcua asks on until it hears that, and asyncua does not say it.
        """
        self._refuse_strange(params.SubscriptionId)
        message = super().republish(params)
        if not message.NotificationData:
            raise ServiceError(ua.StatusCodes.BadMessageNotAvailable)
        return message

    def modify_subscription(self, params: ua.ModifySubscriptionParameters) -> ua.ModifySubscriptionResult:
        """Change a subscription. Raises ServiceError where it is another's, as the methods below do."""
        self._refuse_strange(params.SubscriptionId)
        return super().modify_subscription(params)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        """Add items to a subscription."""
        self._refuse_strange(params.SubscriptionId)
        return await super().create_monitored_items(params)

    async def modify_monitored_items(
        self, params: ua.ModifyMonitoredItemsParameters
    ) -> list[ua.MonitoredItemModifyResult]:
        """Change items of a subscription."""
        self._refuse_strange(params.SubscriptionId)
        return await super().modify_monitored_items(params)

    async def set_monitoring_mode(self, params: ua.SetMonitoringModeParameters) -> list[ua.StatusCode]:
        """Let items of a subscription rest or report."""
        self._refuse_strange(params.SubscriptionId)
        return await super().set_monitoring_mode(params)

    async def delete_monitored_items(self, params: ua.DeleteMonitoredItemsParameters) -> list[ua.StatusCode]:
        """Take items from a subscription."""
        self._refuse_strange(params.SubscriptionId)
        return await super().delete_monitored_items(params)

    def _owns(self, subscription_id: int) -> bool:
        one = self.subscription_service.subscriptions.get(subscription_id)
        return one is not None and one.session_id == self.session_id

    def _may_have(self, subscription_id: int) -> bool:
        holder = self.subscription_service.holder(subscription_id)
        return self._owns(subscription_id) or (holder is not None and self.may_take_over(holder))

    def _own(self, ids: Iterable[int]) -> list[int]:
        """Return the ids with those of others made nobody's."""
        return [one if self._owns(one) else _NOBODYS for one in ids]

    def _refuse_strange(self, subscription_id: int) -> None:
        """Raise ServiceError for a subscription of another; one's own lives on, whatever is asked of it."""
        if not self._owns(subscription_id):
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        self.subscription_service.touch(subscription_id)


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))
