"""Method calls that lead nowhere, by the statuses of OPC 10000-4, 5.11.2; asyncua has two of its own for them."""

from __future__ import annotations

from asyncua import ua
from asyncua.server.address_space import MethodService


class StationMethods(MethodService):
    """asyncua's method service, which says what is wrong with a call."""

    def may_call(self, user: object, method: ua.NodeId) -> bool:  # noqa: ARG002 - for those who know their users
        """Tell whether a user may call a method."""
        return True

    async def _call(self, method: ua.CallMethodRequest) -> ua.CallMethodResult:
        fault = self._fault(method)
        if fault is not None:
            return ua.CallMethodResult(StatusCode=ua.StatusCode(ua.UInt32(fault)))
        return await super()._call(method)

    def _fault(self, method: ua.CallMethodRequest) -> int | None:
        if method.ObjectId not in self._aspace:
            return ua.StatusCodes.BadNodeIdUnknown
        called = self._aspace.get(method.MethodId)
        node_class = self._aspace.read_attribute_value(method.MethodId, ua.AttributeIds.NodeClass).Value
        if called is None or node_class is None or node_class.Value != ua.NodeClass.Method:
            return ua.StatusCodes.BadMethodInvalid
        return ua.StatusCodes.BadNotImplemented if called.call is None else None
