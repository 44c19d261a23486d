"""What one request may ask for, found out before anything in it is made an object.

asyncua 2.1 makes objects of whatever a message holds, and carries out as many operations as it names.
"""

from __future__ import annotations

from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer, ServiceError
from asyncua.ua.ua_binary import nodeid_from_binary

MAX_OPERATIONS: Final = 1000
"""Nodes or items in one call: all tags are thirty, and the companion model is browsed in a few calls."""

MAX_BROWSE_PATHS: Final = 300
"""The same of paths to translate: each of their steps is ten pieces, and a path has several."""

MAX_PIECES: Final = 25_000
"""Into which one message is taken apart, for never more than a third of a second.

Twenty-five for each operation, eighty for each path to translate, which is one of seven steps.
"""

MAX_STRANGERS_PIECES: Final = 1_000
"""The same before a login; to open a session takes fifty."""

_UNCOUNTED: Final = 2048  # bytes: whatever is in there is taken apart in milliseconds


def request_type(name: str) -> ua.NodeId:
    """Return what a request of a service begins with, the service named as in the standard."""
    return ua.NodeId(ua.Int32(getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary")))


_BROWSE: Final = request_type("Browse")
_TRANSLATE: Final = request_type("TranslateBrowsePathsToNodeIds")
_COUNT_AT: Final = {
    request_type("Read"): 12,
    request_type("Write"): 0,
    _TRANSLATE: 0,
    request_type("RegisterNodes"): 0,
    request_type("UnregisterNodes"): 0,
    request_type("Call"): 0,
    request_type("CreateMonitoredItems"): 8,
    request_type("ModifyMonitoredItems"): 8,
    request_type("DeleteMonitoredItems"): 4,
    request_type("SetMonitoringMode"): 8,
    request_type("SetPublishingMode"): 1,
    request_type("DeleteSubscriptions"): 0,
    request_type("TransferSubscriptions"): 0,
    _BROWSE: 16,  # behind the NodeId of its view
    request_type("BrowseNext"): 1,
}
"""Where in a request's body the length of its array stands (OPC 10000-4, 5)."""


def counted(body: Buffer, pieces: int) -> Buffer:
    """Return a message that is taken apart into so many pieces and no more."""
    return body if len(body) <= _UNCOUNTED else _CountedBuffer(bytes(body), left=[pieces])


def refuse_too_many(typeid: ua.NodeId, body: Buffer) -> None:
    """Look at the length of a request's array before anything in it is made an object. Raises ServiceError."""
    at = _COUNT_AT.get(typeid)
    if at is None:
        return
    ahead = body.copy()
    if typeid == _BROWSE:
        nodeid_from_binary(ahead)
    ahead.skip(at)
    allowed = MAX_BROWSE_PATHS if typeid == _TRANSLATE else MAX_OPERATIONS
    count = int.from_bytes(ahead.read(4), "little", signed=True)
    if count <= 0:  # below: no array at all, which asyncua takes for one
        raise ServiceError(ua.StatusCodes.BadNothingToDo)
    if count > allowed:
        raise ServiceError(ua.StatusCodes.BadTooManyOperations)


class _CountedBuffer(Buffer):
    """A message that may be taken apart into so many pieces and no more; its parts count with it.

    A byte can be a whole structure, which costs ten microseconds to make.
    """

    def __init__(self, data: bytes, start_pos: int = 0, size: int = -1, *, left: list[int]) -> None:
        super().__init__(data, start_pos, size)
        self._left = left

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises ServiceError where there were too many pieces."""
        self._left[0] -= 1
        if self._left[0] < 0:
            raise ServiceError(ua.StatusCodes.BadEncodingLimitsExceeded)
        return super().read(size)

    def copy(self, size: int = -1) -> _CountedBuffer:
        """Return a view of what is left, or of its first bytes."""
        size = len(self) if size == -1 else min(size, len(self))
        return _CountedBuffer(self._data, self._cur_pos, size, left=self._left)
