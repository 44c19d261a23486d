"""What a subscriber may ask to be told of: deadbands on numbers, and events by conditions that have an end.

asyncua 2.1 takes any filter, and evaluates it within the write of a tag or the report of an event.
"""

from __future__ import annotations

from typing import Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace
from asyncua.server.monitored_item_service import WhereClauseEvaluator
from asyncua.ua.uaprotocol_auto import DataChangeFilter  # what is decoded; ua.DataChangeFilter is a class below it

_MAX_SELECTED: Final = 50  # fields of an event
_MAX_CONDITIONS: Final = 100  # steps to evaluate a where clause
_NUMBER_TYPES: Final = frozenset(
    ua.NodeId(ua.Int32(kind))
    for kind in (
        *range(ua.ObjectIds.SByte, ua.ObjectIds.Double + 1),
        *range(ua.ObjectIds.Number, ua.ObjectIds.UInteger + 1),
    )
)
_ATTRIBUTES: Final = frozenset(int(one) for one in ua.AttributeIds)
_BAD_EVENT_FILTER: Final = ua.StatusCodes.BadEventFilterInvalid


def objection(aspace: AddressSpace, watched: ua.ReadValueId, chosen: ua.MonitoringFilter | None) -> int | None:
    """Return the status that refuses a filter for what is watched; None: it can be had."""
    if watched.AttributeId == ua.AttributeIds.EventNotifier:
        return None if isinstance(chosen, ua.EventFilter) and _is_bearable(chosen) else _BAD_EVENT_FILTER
    if not chosen:  # none is an extension object without a body, which is false
        return None
    if not isinstance(chosen, DataChangeFilter):
        return ua.StatusCodes.BadFilterNotAllowed
    if chosen.DeadbandType == ua.DeadbandType.None_:
        return None
    if chosen.DeadbandType != ua.DeadbandType.Absolute:
        return ua.StatusCodes.BadMonitoredItemFilterUnsupported
    return None if _holds_number(aspace, watched) else ua.StatusCodes.BadFilterNotAllowed


def wants_changes(chosen: ua.MonitoringFilter | None) -> bool:
    """Tell whether a filter lets pass what changes its value or its status, and nothing else: the default."""
    return not chosen or (  # none is an extension object without a body, which is false
        isinstance(chosen, DataChangeFilter)
        and chosen.Trigger == ua.DataChangeTrigger.StatusValue
        and chosen.DeadbandType == ua.DeadbandType.None_
    )


def is_number(variant: ua.Variant) -> bool:
    """Tell whether a value has a distance from another; a truth value has none."""
    return isinstance(variant.Value, int | float) and not isinstance(variant.Value, bool)


class StationWhereClause(WhereClauseEvaluator):
    """The condition of an event filter."""

    def eval(self, event: object) -> bool:
        """Tell whether an event passes; one that lacks what is asked for does not, and asyncua logs a traceback."""
        if not self.elements:
            return True
        try:
            return bool(self._eval_el(0, event))
        except Exception:  # noqa: BLE001 - a subscriber's condition may compare whatever it likes: no defect
            return False


def _holds_number(aspace: AddressSpace, watched: ua.ReadValueId) -> bool:
    if watched.AttributeId != ua.AttributeIds.Value:
        return False
    value = aspace.read_attribute_value(watched.NodeId, ua.AttributeIds.Value).Value
    if value is not None and value.Value is not None:
        return is_number(value)
    kind, rank = (
        aspace.read_attribute_value(watched.NodeId, attribute).Value
        for attribute in (ua.AttributeIds.DataType, ua.AttributeIds.ValueRank)
    )
    is_scalar = rank is not None and rank.Value == ua.ValueRank.Scalar
    return is_scalar and kind is not None and kind.Value in _NUMBER_TYPES


def _is_bearable(chosen: ua.EventFilter) -> bool:
    """Tell whether an event filter can be evaluated soon, and at all."""
    fields, elements = chosen.SelectClauses, chosen.WhereClause.Elements
    if len(fields) > _MAX_SELECTED or len(elements) > _MAX_CONDITIONS:
        return False
    if any(step.Name is None for field in fields for step in field.BrowsePath):
        return False
    if any(not field.BrowsePath and field.AttributeId not in _ATTRIBUTES for field in fields):
        return False
    steps = [1] * len(elements)
    for at in reversed(range(len(elements))):
        for operand in elements[at].FilterOperands:
            if isinstance(operand, ua.ElementOperand):
                if not at < operand.Index < len(elements):  # OPC 10000-4, 7.4.4.2: else it might go round
                    return False
                steps[at] += steps[operand.Index]
    return not steps or steps[0] <= _MAX_CONDITIONS
