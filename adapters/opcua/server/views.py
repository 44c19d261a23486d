"""The address space as clients look through it: browsing and browse paths, within bounds."""

from __future__ import annotations

from typing import Final

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.address_space import AddressSpace, ViewService

_MAX_REFERENCES: Final = 10_000  # the 500 busiest nodes of the standard's address space have 5,300
_MAX_STEPS: Final = 100_000  # references looked at to follow browse paths


class StationViews(ViewService):
    """asyncua's view service with bounds: it follows every reference that a request leads to, however often."""

    def __init__(self, aspace: AddressSpace) -> None:
        super().__init__(aspace)
        self._subtypes: dict[ua.NodeId, frozenset[ua.NodeId]] = {}
        self._steps_left = 0

    def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """Return all references of some nodes, except where they are too many for one answer."""
        self._subtypes.clear()
        left, results = _MAX_REFERENCES, []
        for description in params.NodesToBrowse:
            node = self._aspace.get(description.NodeId)
            left -= 0 if node is None else len(node.references)
            if node is None:
                results.append(ua.BrowseResult(StatusCode=_status(ua.StatusCodes.BadNodeIdUnknown)))
            elif left < 0:
                results.append(ua.BrowseResult(StatusCode=_status(ua.StatusCodes.BadNoContinuationPoints)))
            else:
                results.append(self._browse(description))
        return results

    def translate_browsepaths_to_nodeids(self, browsepaths: list[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        """Return where paths lead. Raises ServiceError where they branch without end."""
        self._subtypes.clear()
        self._steps_left = _MAX_STEPS
        return super().translate_browsepaths_to_nodeids(browsepaths)

    def _translate_browsepath_to_nodeid(self, path: ua.BrowsePath) -> ua.BrowsePathResult:
        if not path.RelativePath.Elements:
            return ua.BrowsePathResult(StatusCode=_status(ua.StatusCodes.BadNothingToDo))
        if path.StartingNode not in self._aspace:
            return ua.BrowsePathResult(StatusCode=_status(ua.StatusCodes.BadNodeIdUnknown))
        return super()._translate_browsepath_to_nodeid(path)

    def _find_elements_in_node(self, el: ua.RelativePathElement, nodeid: ua.NodeId) -> list[ua.NodeId]:
        self._steps_left -= 1 + len(self._aspace[nodeid].references)
        if self._steps_left < 0:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return super()._find_elements_in_node(el, nodeid)

    def _suitable_reftype(self, ref1: ua.NodeId, ref2: ua.NodeId, subtypes: bool) -> bool:
        if not subtypes or ref1 == ref2:
            return super()._suitable_reftype(ref1, ref2, subtypes=False)
        if ref1 not in self._subtypes:
            # asyncua walks down the hierarchy of types for each reference that it looks at
            self._subtypes[ref1] = frozenset(self._get_sub_ref(ref1))
        return ref2 in self._subtypes[ref1] or super()._suitable_reftype(ref1, ref2, subtypes=False)


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))
