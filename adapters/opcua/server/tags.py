"""The tags of a station as nodes of an asyncua server, and who may write them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast

import structlog
from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeService

from adapters.opcua.server.notifications import ResultEnd, ResultValue, WrittenValue
from adapters.opcua.server.users import StationUser
from schemas.tags import NAMESPACE_URI, RESULT_RING, Access, Tag, TagType

TagValue: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
"""What a tag holds; None is a Bad status without a value (OPC 10000-8, 6.3.2)."""

log = structlog.get_logger(__name__)

_VARIANT_TYPES: Final = {
    TagType.BOOLEAN: ua.VariantType.Boolean,
    TagType.UINT16: ua.VariantType.UInt16,
    TagType.UINT32: ua.VariantType.UInt32,
    TagType.DOUBLE: ua.VariantType.Double,
    TagType.STRING: ua.VariantType.String,
    TagType.INT32_ARRAY: ua.VariantType.Int32,
    TagType.STRING_ARRAY: ua.VariantType.String,
}
TRIGGER_TEXTS: Final = (Tag.TriggerPartId, Tag.TriggerImageUri, Tag.TriggerEventId)
_ARRAY_LIMITS: Final = {Tag.Boxes: 0, Tag.Results: RESULT_RING}  # ArrayDimensions; 0: no limit (OPC 10000-3, 5.6.2)


class TagSpace:
    """All tags of one station in a server's address space.

    Calls are synchronous, so what one call writes no client ever reads half of.

    `unknown` are the texts whose last write was refused: what stands there is another part's.
    """

    def __init__(self, aspace: AddressSpace, node_ids: Mapping[Tag, ua.NodeId]) -> None:
        self.aspace = aspace
        self.node_ids = node_ids
        self.unknown: set[Tag] = set()

    @classmethod
    async def create(cls, server: Server, station: str, at: datetime) -> TagSpace:
        """Add `Objects/Cangate/{station}` and its tags, with their start values, to a server that is not started."""
        namespace = await server.register_namespace(NAMESPACE_URI)
        folder = await server.nodes.objects.add_folder(_node_id("Cangate", namespace), f"{namespace}:Cangate")
        parent = await folder.add_object(_node_id(station, namespace), f"{namespace}:{station}")
        node_ids = {tag: _node_id(tag.node_id(station), namespace) for tag in Tag}
        for tag, node_id in node_ids.items():
            variant_type = _VARIANT_TYPES[tag.spec.type]
            placeholder = 0.0 if tag.spec.start is None else _plain(tag.spec.start)
            node = await parent.add_variable(node_id, f"{namespace}:{tag.name}", placeholder, variant_type)
            description = ua.Variant(ua.LocalizedText(tag.spec.meaning), ua.VariantType.LocalizedText)
            await node.write_attribute(ua.AttributeIds.Description, ua.DataValue(description))
            if tag in _ARRAY_LIMITS:
                await node.write_value_rank(ua.ValueRank.OneDimension)
                limits = ua.Variant([_ARRAY_LIMITS[tag]], ua.VariantType.UInt32)
                await node.write_attribute(ua.AttributeIds.ArrayDimensions, ua.DataValue(limits))
            if tag.spec.access is Access.PLC_WRITES:
                await node.set_writable()
        tags = cls(server.iserver.aspace, node_ids)
        tags.write({tag: tag.spec.start for tag in Tag}, at, absent=ua.StatusCodes.BadWaitingForInitialData)
        return tags

    def write_result(self, values: Mapping[Tag, TagValue], seq: int, at: datetime) -> None:
        """Write the tags of one result, then its ResultSeq."""
        self.write(values, at, kind=ResultValue)
        self.write({Tag.ResultSeq: seq}, at, kind=ResultEnd)

    def write(
        self,
        values: Mapping[Tag, TagValue],
        at: datetime,
        *,
        absent: int = ua.StatusCodes.BadNoData,
        kind: type[WrittenValue] = WrittenValue,
    ) -> None:
        """Write `values` in their order, all with the source timestamp `at`; `absent` is the status of a None."""
        for tag, value in values.items():
            if value is None:
                variant, status = ua.Variant(), ua.StatusCode(ua.UInt32(absent))
            else:
                variant, status = ua.Variant(_plain(value), _VARIANT_TYPES[tag.spec.type]), ua.StatusCode()
            self.store(tag, variant, status, source=at, server=at, kind=kind).check()

    def store(
        self,
        tag: Tag,
        variant: ua.Variant,
        status: ua.StatusCode,
        *,
        source: datetime,
        server: datetime,
        kind: type[WrittenValue] = WrittenValue,
    ) -> ua.StatusCode:
        """Put a value with its status and both timestamps into the address space; subscribers are told."""
        value = kind(variant, status, cast("ua.DateTime", source), cast("ua.DateTime", server))
        return complete(self.aspace.write_attribute_value(self.node_ids[tag], ua.AttributeIds.Value, value))

    def number(self, tag: Tag) -> int:
        """Return the value of a tag that holds a whole number or a Boolean."""
        value = self._value(tag)
        assert isinstance(value, int)
        return value

    def text(self, tag: Tag) -> str:
        """Return the value of a String tag; empty while it is unknown."""
        return "" if tag in self.unknown else str(self._value(tag))

    def next(self, counter: Tag) -> int:
        """Return a UInt32 counter plus one, starting again at 0."""
        return (self.number(counter) + 1) % 2**32

    def _value(self, tag: Tag) -> bool | int | float | str | list[str]:
        variant = self.aspace.read_attribute_value(self.node_ids[tag], ua.AttributeIds.Value).Value
        assert variant is not None
        value: bool | int | float | str | list[str] = variant.Value
        return value


class TagWrites(AttributeService):
    """The server's attribute service: remote clients write the PLC's tags and nothing else.

    Every write passes here in the order it came in, so no trigger is lost between two samples of a subscription.
    """

    def __init__(self, tags: TagSpace, on_trigger: Callable[[int], None]) -> None:
        super().__init__(tags.aspace)
        self._tags = tags
        self._on_trigger = on_trigger
        self._writable = {tags.node_ids[tag]: tag for tag in Tag if tag.spec.access is Access.PLC_WRITES}

    async def write(
        self,
        params: ua.WriteParameters,
        user: User = User(role=UserRole.Admin),  # noqa: B008 - asyncua's signature
    ) -> list[ua.StatusCode]:
        """Carry out one Write request; the result has one status for each item."""
        if user.role is UserRole.Admin:  # asyncua itself: no remote client ever gets this role
            return await super().write(params, user)
        items = params.NodesToWrite
        order = list(range(len(items)))
        triggers = [index for index in order if self._writable.get(items[index].NodeId) is Tag.Trigger]
        if len(triggers) == 1:
            # No client can count on an order inside one request: a lone Trigger comes after the texts beside it.
            order.sort(key=triggers.__contains__)
        results = {index: self._take(items[index], user) for index in order}
        return [ua.StatusCode(ua.UInt32(results[index])) for index in range(len(items))]

    def _take(self, item: ua.WriteValue, user: User) -> int:
        tag = self._writable.get(item.NodeId)
        if tag is None or item.AttributeId != ua.AttributeIds.Value:
            known = self._tags.aspace.get(item.NodeId) is not None
            return ua.StatusCodes.BadNotWritable if known else ua.StatusCodes.BadNodeIdUnknown
        if not (isinstance(user, StationUser) and user.writes):
            return ua.StatusCodes.BadUserAccessDenied
        before = self._tags.number(Tag.Trigger)
        code = self._store(tag, item)
        if code == ua.StatusCodes.Good:
            self._tags.unknown.discard(tag)
            trigger = self._tags.number(Tag.Trigger)
            if tag is Tag.Trigger and trigger not in (0, before):
                self._on_trigger(trigger)
        elif tag in TRIGGER_TEXTS and tag not in self._tags.unknown:
            self._tags.unknown.add(tag)  # until it is written: the trigger behind it may not be refused with it
            log.warning("trigger_text_refused", tag=tag.name, status=ua.StatusCode(ua.UInt32(code)).name)
        return code

    def _store(self, tag: Tag, item: ua.WriteValue) -> int:
        status, variant = item.Value.StatusCode, item.Value.Value
        if item.IndexRange or not (status is None or status.is_good()):
            return ua.StatusCodes.BadWriteNotSupported
        if variant is None or variant.is_array or variant.VariantType is not _VARIANT_TYPES[tag.spec.type]:
            return ua.StatusCodes.BadTypeMismatch
        if variant.Value is None:  # a null String is an empty one
            variant = ua.Variant("", ua.VariantType.String)
        now = datetime.now(UTC)
        source = item.Value.SourceTimestamp or now
        return int(self._tags.store(tag, variant, ua.StatusCode(), source=source, server=now).value)


def _node_id(text: str, namespace: int) -> ua.NodeId:
    return ua.NodeId(ua.String(text), ua.Int16(namespace))


def _plain(value: TagValue) -> TagValue | list[int] | list[str]:
    """Return a tuple as the list that asyncua takes for an array."""
    return list(value) if isinstance(value, tuple) else value  # type: ignore[return-value] # one of two tuples


def complete(step: Coroutine[object, object, ua.StatusCode]) -> ua.StatusCode:
    """Run asyncua's in-process write, a coroutine in name only, without giving up the event loop.

    Raises:
        RuntimeError: it did suspend, so that clients could read half a result.
    """
    try:
        step.send(None)
    except StopIteration as done:
        status: ua.StatusCode = done.value
        return status
    step.close()
    raise RuntimeError("a tag write suspended")
