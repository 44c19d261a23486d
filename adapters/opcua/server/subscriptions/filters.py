"""What a subscriber may ask to be told of: deadbands on numbers, and events by conditions that have an end.

asyncua 2.1 takes any filter, and evaluates it within the write of a tag or the report of an event.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace
from asyncua.server.monitored_item_service import WhereClauseEvaluator
from asyncua.ua.uaprotocol_auto import DataChangeFilter  # what is decoded; ua.DataChangeFilter is a class below it

from adapters.opcua.server.subscriptions.like import is_like, is_pattern

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
_BASE_EVENT_TYPE: Final = ua.NodeId(ua.Int32(ua.ObjectIds.BaseEventType))
_HAS_SUBTYPE: Final = ua.NodeId(ua.Int32(ua.ObjectIds.HasSubtype))


def objection(aspace: AddressSpace, watched: ua.ReadValueId, chosen: ua.MonitoringFilter | None) -> int | None:
    """Return the status that refuses a filter for what is watched; None: it can be had."""
    if watched.AttributeId == ua.AttributeIds.EventNotifier:
        takes = isinstance(chosen, ua.EventFilter) and _is_bearable(chosen) and not any(_faults(aspace, chosen))
        return None if takes else _BAD_EVENT_FILTER
    if not chosen:  # none is an extension object without a body, which is false
        return None
    if not isinstance(chosen, DataChangeFilter):
        return ua.StatusCodes.BadFilterNotAllowed
    return None if chosen.DeadbandType == ua.DeadbandType.None_ else _deadband_objection(aspace, watched, chosen)


def _deadband_objection(aspace: AddressSpace, watched: ua.ReadValueId, chosen: DataChangeFilter) -> int | None:
    if chosen.DeadbandType != ua.DeadbandType.Absolute:
        return ua.StatusCodes.BadMonitoredItemFilterUnsupported
    if not _holds_number(aspace, watched):
        return ua.StatusCodes.BadFilterNotAllowed
    return None if chosen.DeadbandValue >= 0 else ua.StatusCodes.BadDeadbandFilterInvalid  # or it is no number


def filter_result(aspace: AddressSpace, chosen: ua.MonitoringFilter | None) -> ua.EventFilterResult | None:
    """Return what is wrong with each condition of an event filter (OPC 10000-4, 7.22.3); None where nothing is."""
    if not isinstance(chosen, ua.EventFilter) or len(chosen.WhereClause.Elements) > _MAX_CONDITIONS:
        return None
    faults = _faults(aspace, chosen)
    if not any(faults):
        return None
    return ua.EventFilterResult(
        SelectClauseResults=[ua.StatusCode() for _ in chosen.SelectClauses],
        WhereClauseResult=ua.ContentFilterResult(
            ElementResults=[ua.ContentFilterElementResult(ua.StatusCode(ua.UInt32(fault))) for fault in faults]
        ),
    )


def wants_changes(chosen: ua.MonitoringFilter | None) -> bool:
    """Tell whether a filter lets pass what changes its value or its status, and nothing else: the default."""
    return not chosen or (  # none is an extension object without a body, which is false
        isinstance(chosen, DataChangeFilter)
        and chosen.Trigger == ua.DataChangeTrigger.StatusValue
        and chosen.DeadbandType == ua.DeadbandType.None_
    )


def is_news(chosen: ua.MonitoringFilter | None, before: ua.DataValue | None, now: ua.DataValue) -> bool:
    """Tell whether a filter lets a value pass behind the last one that it let pass (OPC 10000-4, 7.22.2).

    Not behind the last one that was there: what drifts in small steps would never be told.
    """
    if before is None or before.StatusCode != now.StatusCode:
        return True
    trigger = chosen.Trigger if isinstance(chosen, DataChangeFilter) else ua.DataChangeTrigger.StatusValue
    if trigger == ua.DataChangeTrigger.Status:
        return False
    if isinstance(chosen, DataChangeFilter) and chosen.DeadbandType == ua.DeadbandType.Absolute:
        return before.Value != now.Value and not _are_within(chosen.DeadbandValue, before.Value, now.Value)
    if before.Value != now.Value:
        return True
    return trigger == ua.DataChangeTrigger.StatusValueTimestamp and (
        (before.SourceTimestamp, before.SourcePicoseconds) != (now.SourceTimestamp, now.SourcePicoseconds)
    )


def _are_within(deadband: float, *values: ua.Variant | None) -> bool:
    """Tell whether two values are numbers no further apart; what comes or goes is none."""
    before, now = (value.Value if value is not None and _is_number(value) else math.nan for value in values)
    return bool(abs(now - before) <= deadband)


def _is_number(variant: ua.Variant) -> bool:
    """Tell whether a value has a distance from another; a truth value has none."""
    return isinstance(variant.Value, int | float) and not isinstance(variant.Value, bool)


class StationWhereClause(WhereClauseEvaluator):
    """The condition of an event filter. What an event has no value for is null (OPC 10000-4, 7.7.3), here None."""

    def eval(self, event: object) -> bool:
        """Tell whether an event passes; where asyncua cannot tell, it does not, and asyncua logs a traceback."""
        if not self.elements:
            return True
        try:
            return bool(self._eval_el(0, event))
        except Exception:  # noqa: BLE001 - a subscriber's condition may compare whatever it likes: no defect
            return False

    def _eval_el(self, index: int, event: Any) -> Any:  # noqa: ANN401 - asyncua's own
        element = self.elements[index]
        values = [self._eval_op(operand, event) for operand in element.FilterOperands]
        if element.FilterOperator == ua.FilterOperator.OfType:
            return values[0] in _with_supertypes(self._aspace, event.EventType)
        if element.FilterOperator in _NULL_AWARE:
            return _NULL_AWARE[element.FilterOperator](*values)
        return None if None in values else _OPERATORS[element.FilterOperator](*values)

    def _eval_op(self, op: Any, event: Any) -> Any:  # noqa: ANN401 - as above
        """Return the value of an operand; of a field its whole path counts, and of asyncua's own attributes none."""
        if isinstance(op, ua.SimpleAttributeOperand) and op.BrowsePath:
            name = event.browse_path_to_attribute_name(op.BrowsePath)
            return getattr(event, name) if name in event.data_types else None
        return super()._eval_op(op, event)


def _all(*values: object) -> bool | None:
    return True if all(values) else False if any(value is not None and not value for value in values) else None


def _any(*values: object) -> bool | None:
    return True if any(values) else None if None in values else False


def _in_list(value: object, *listed: object) -> bool | None:
    """Tell whether a value equals one of a list: the Or of as many Equals (OPC 10000-4, 7.7.3)."""
    return _any(*(None if None in (value, one) else value == one for one in listed))


_NULL_AWARE: Final[dict[ua.FilterOperator, Callable[..., bool | None]]] = {
    ua.FilterOperator.IsNull: lambda value: value is None,
    ua.FilterOperator.And: _all,
    ua.FilterOperator.Or: _any,
    ua.FilterOperator.InList: _in_list,
}
_OPERATORS: Final[dict[ua.FilterOperator, Callable[..., bool]]] = {
    ua.FilterOperator.Equals: operator.eq,
    ua.FilterOperator.GreaterThan: operator.gt,
    ua.FilterOperator.LessThan: operator.lt,
    ua.FilterOperator.GreaterThanOrEqual: operator.ge,
    ua.FilterOperator.LessThanOrEqual: operator.le,
    ua.FilterOperator.Like: is_like,
    ua.FilterOperator.Not: operator.not_,
    ua.FilterOperator.Between: lambda value, low, high: low <= value <= high,
}
"""Of values that are there: a comparison with null is null."""

_OPERANDS: Final = {
    **dict.fromkeys((*_NULL_AWARE, *_OPERATORS), 2),
    **dict.fromkeys((ua.FilterOperator.IsNull, ua.FilterOperator.Not, ua.FilterOperator.OfType), 1),
    ua.FilterOperator.Between: 3,
}
"""How many operands each operator has that is evaluated; InList has two or more."""


def _faults(aspace: AddressSpace, chosen: ua.EventFilter) -> list[int]:
    """Return the status of each condition of an event filter: whether it is one that is evaluated."""
    return [_fault(aspace, element) for element in chosen.WhereClause.Elements]


def _fault(aspace: AddressSpace, element: ua.ContentFilterElement) -> int:
    kind, operands = element.FilterOperator, element.FilterOperands
    if kind not in _OPERANDS:
        return ua.StatusCodes.BadFilterOperatorUnsupported
    may_have_more = kind == ua.FilterOperator.InList
    if len(operands) < _OPERANDS[kind] or (len(operands) > _OPERANDS[kind] and not may_have_more):
        return ua.StatusCodes.BadFilterOperandCountMismatch
    is_wrong = (kind == ua.FilterOperator.Like and not _is_pattern(_literal(operands[1]))) or (
        kind == ua.FilterOperator.OfType and not _is_event_type(aspace, _literal(operands[0]))
    )
    return ua.StatusCodes.BadFilterOperandInvalid if is_wrong else ua.StatusCodes.Good


def _literal(operand: object) -> object:
    return operand.Value.Value if isinstance(operand, ua.LiteralOperand) and operand.Value else None


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and is_pattern(value)


def _is_event_type(aspace: AddressSpace, value: object) -> bool:
    return isinstance(value, ua.NodeId) and _BASE_EVENT_TYPE in _with_supertypes(aspace, value)


def _with_supertypes(aspace: AddressSpace, type_id: ua.NodeId) -> Iterator[ua.NodeId]:
    """Return a type and all types above it, of each of which it is one; nothing for what is not there."""
    above: ua.NodeId | None = type_id
    while above is not None and (node := aspace.get(above)) is not None:
        yield above
        upwards = (one for one in node.references if one.ReferenceTypeId == _HAS_SUBTYPE and not one.IsForward)
        above = next((one.NodeId for one in upwards), None)


def _holds_number(aspace: AddressSpace, watched: ua.ReadValueId) -> bool:
    if watched.AttributeId != ua.AttributeIds.Value:
        return False
    value = aspace.read_attribute_value(watched.NodeId, ua.AttributeIds.Value).Value
    if value is not None and value.Value is not None:
        return _is_number(value)
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
