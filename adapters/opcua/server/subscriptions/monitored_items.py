"""The items of one subscription: what a client is told of, and what it may ask for (`filters.py`)."""

from __future__ import annotations

from typing import Final, cast

from asyncua import ua
from asyncua.common.events import Event
from asyncua.server.address_space import AddressSpace
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.monitored_item_service import MonitoredItemData, MonitoredItemService, MonitoredItemValues

from adapters.opcua.server.excerpts import NEVER, as_written, asks_for_excerpt, excerpt, with_stamps
from adapters.opcua.server.notifications import FieldKey, WrittenValue, encode_event, field_key
from adapters.opcua.server.subscriptions.filters import (
    StationWhereClause,
    filter_result,
    is_news,
    objection,
    wants_changes,
)
from adapters.opcua.server.subscriptions.news import News

_MAX_EVENT_QUEUE: Final = 50  # events that an item keeps for its subscriber


class MonitoredItems(MonitoredItemService):
    """Makes, changes and tells of the items of a subscription; what makes no sense is refused by name."""

    def __init__(self, subscription: InternalSubscription, space: AddressSpace, news: News) -> None:
        super().__init__(subscription, space)
        self.room_for_events = 0
        self.encoded_fields: dict[FieldKey, bytes] = {}
        self._news = news
        self._selected: dict[int, list[tuple[FieldKey, ua.SimpleAttributeOperand]]] = {}
        self._stamps: dict[int, ua.TimestampsToReturn] = {}
        self._asked_stamps = ua.TimestampsToReturn.Both  # of the request that is being answered
        self._foreign = ua.DataValue()  # the last that asyncua wrote, and what the items share in its place
        self._shared = as_written(self._foreign)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create items, whose values are told with the timestamps that are asked for."""
        self._asked_stamps = params.TimestampsToReturn
        return await super().create_monitored_items(params)

    def modify_monitored_items(self, params: ua.ModifyMonitoredItemsParameters) -> list[ua.MonitoredItemModifyResult]:
        """Change items, and with which timestamps their values are told."""
        self._asked_stamps = params.TimestampsToReturn
        return super().modify_monitored_items(params)

    def _commit_monitored_item(self, result: ua.MonitoredItemCreateResult, mdata: MonitoredItemData) -> None:
        super()._commit_monitored_item(result, mdata)
        if result.StatusCode.is_good():
            self._stamps[result.MonitoredItemId] = self._asked_stamps

    async def _create_data_change_monitored_item(
        self, params: ua.MonitoredItemCreateRequest
    ) -> ua.MonitoredItemCreateResult:
        refused = self._objection(params.ItemToMonitor, params.RequestedParameters.Filter)
        if refused is not None:
            return ua.MonitoredItemCreateResult(StatusCode=_status(refused))
        made = await super()._create_data_change_monitored_item(params)
        if made.StatusCode.is_good():
            self._news.keep_oldest(made.MonitoredItemId, kept=not params.RequestedParameters.DiscardOldest)
        return made

    def _create_events_monitored_item(self, params: ua.MonitoredItemCreateRequest) -> ua.MonitoredItemCreateResult:
        wanted = params.RequestedParameters.Filter
        refused = self._objection(params.ItemToMonitor, wanted)
        if refused is not None:
            return ua.MonitoredItemCreateResult(_status(refused), FilterResult=self._filter_result(wanted))
        if self.room_for_events <= 0:
            return ua.MonitoredItemCreateResult(StatusCode=_status(ua.StatusCodes.BadTooManyMonitoredItems))
        made = super()._create_events_monitored_item(params)
        if made.StatusCode.is_good():
            self.room_for_events -= 1
            item = self._monitored_items[made.MonitoredItemId]
            self._choose_events(item, params.RequestedParameters.Filter)
            item.queue_size = self._revise_event_queue_size(params.RequestedParameters.QueueSize)
            made.RevisedQueueSize = ua.UInt32(item.queue_size)
        return made

    def _modify_monitored_item(self, params: ua.MonitoredItemModifyRequest) -> ua.MonitoredItemModifyResult:
        """Change an item; asyncua looks through all of them, and takes whatever it is told."""
        item, wanted = self._monitored_items.get(params.MonitoredItemId), params.RequestedParameters
        if item is None or item.read_value_id is None:
            return ua.MonitoredItemModifyResult(StatusCode=_status(ua.StatusCodes.BadMonitoredItemIdInvalid))
        if wanted.Filter or item.where_clause_evaluator is None:  # events need one: theirs stays
            refused = objection(self.aspace, item.read_value_id, wanted.Filter)
            if refused is not None:
                return ua.MonitoredItemModifyResult(_status(refused), FilterResult=self._filter_result(wanted.Filter))
            item.filter = wanted.Filter
            if isinstance(wanted.Filter, ua.EventFilter):
                self._choose_events(item, wanted.Filter)
        self._stamps[params.MonitoredItemId] = self._asked_stamps
        item.client_handle = wanted.ClientHandle
        is_data = item.where_clause_evaluator is None
        revise = self._revise_queue_size if is_data else self._revise_event_queue_size
        item.queue_size = revise(wanted.QueueSize)
        if is_data:
            self._news.keep_oldest(params.MonitoredItemId, kept=not wanted.DiscardOldest)
        return ua.MonitoredItemModifyResult(
            RevisedSamplingInterval=self.isub.data.RevisedPublishingInterval,
            RevisedQueueSize=ua.UInt32(item.queue_size),
        )

    async def _set_monitoring_mode(self, mode: ua.MonitoringMode, mid: int) -> ua.StatusCode:
        item = self._monitored_items.get(mid)
        if item is not None and mode == ua.MonitoringMode.Disabled:
            self._news.drop(mid)
            item.mvalue = MonitoredItemValues()  # what was dropped is news again
        elif item is not None and mode == ua.MonitoringMode.Reporting:
            self._news.report_sampled(
                mid, item.client_handle or 0, item.queue_size
            )  # before what asyncua may look at now
        return await super()._set_monitoring_mode(mode, mid)

    def _objection(self, watched: ua.ReadValueId, chosen: ua.MonitoringFilter | None) -> int | None:
        if asks_for_excerpt(watched):
            now = excerpt(self.aspace.read_attribute_value(watched.NodeId, watched.AttributeId), watched).StatusCode
            if now is not None and now.value in NEVER:
                return int(now.value)
        return objection(self.aspace, watched, chosen)

    def _filter_result(self, chosen: ua.MonitoringFilter | None) -> ua.ExtensionObject:
        return cast("ua.ExtensionObject", filter_result(self.aspace, chosen) or ua.ExtensionObject())

    def _choose_events(self, item: MonitoredItemData, chosen: ua.EventFilter) -> None:
        item.where_clause_evaluator = StationWhereClause(self.logger, self.aspace, chosen.WhereClause)
        assert item.monitored_item_id is not None
        self._selected[item.monitored_item_id] = [(field_key(field), field) for field in chosen.SelectClauses]

    def _revise_event_queue_size(self, requested: int) -> int:
        return min(self._revise_queue_size(requested), _MAX_EVENT_QUEUE)

    def _delete_monitored_items(self, mid: int) -> ua.StatusCode:
        self._selected.pop(mid, None)
        self._stamps.pop(mid, None)
        self._news.forget(mid)
        item = self._monitored_items.get(mid)
        if item is None or item.callback_handle is None:  # an event's, of which there are few
            return super()._delete_monitored_items(mid)
        # by its handle, for which asyncua looks through all items
        self.aspace.delete_datachange_callback(item.callback_handle)
        del self._monitored_datachange[item.callback_handle], self._monitored_items[mid]
        return ua.StatusCode()

    async def _trigger_event(self, event: Event, mid: int) -> None:
        """Queue an event for its subscriber, encoded."""
        if self.isub.pub_request_callback is None:  # nobody's wire
            await super()._trigger_event(event, mid)
            return
        item = self._monitored_items[mid]
        if item.where_clause_evaluator is None or not item.where_clause_evaluator.eval(event):
            return
        told = encode_event(event, self._selected[mid], item.client_handle or 0, self.encoded_fields)
        self._news.add_event(mid, told, item.queue_size)

    async def datachange_callback(self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None) -> None:
        """Queue a value for its subscriber where it is news behind the last one that was queued."""
        if error is not None:
            await super().datachange_callback(handle, value, error)
            return
        item_id = self._monitored_datachange[handle]
        item = self._monitored_items[item_id]
        if item.mode == ua.MonitoringMode.Disabled:
            return
        if item.read_value_id is not None and asks_for_excerpt(item.read_value_id):
            value = excerpt(value, item.read_value_id)
        written, before = self._as_written(value), item.mvalue.current_dvalue
        passes = written.is_news_after(before) if wants_changes(item.filter) else is_news(item.filter, before, written)
        if passes:
            # as it is, which asyncua would copy for each item; not as it is told, with what its encoding takes
            item.mvalue.current_dvalue = value
            told = self._notification(item_id, item, written)
            if item.mode == ua.MonitoringMode.Sampling:  # looked at, and not told of (OPC 10000-4, 5.12.1.3)
                self._news.keep_sampled(item_id, told)
            else:
                self._news.add_change(item_id, told, item.queue_size)

    def repeat_values(self) -> None:
        """Tell the last value of each item once more, unless a newer one waits (OPC 10000-4, 5.13.7.2)."""
        reporting = {mid: one for mid, one in self._monitored_items.items() if one.mode == ua.MonitoringMode.Reporting}
        last = {mid: one.mvalue.current_dvalue for mid, one in reporting.items()}
        self._news.repeat(
            (mid, self._notification(mid, reporting[mid], value)) for mid, value in last.items() if value is not None
        )

    def _notification(self, item_id: int, item: MonitoredItemData, value: ua.DataValue) -> ua.MonitoredItemNotification:
        shown = with_stamps(value, self._stamps[item_id])
        return ua.MonitoredItemNotification(ua.UInt32(item.client_handle or 0), shown)

    def _as_written(self, value: ua.DataValue) -> WrittenValue:
        """Return a value that the items share; of one that asyncua wrote for many of them, the same to each."""
        if isinstance(value, WrittenValue):
            return value
        if value is not self._foreign:
            self._foreign, self._shared = value, as_written(value)
        return self._shared


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))
