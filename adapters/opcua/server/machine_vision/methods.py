"""Method calls: who may call what, whether the arguments fit, and how errors are said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final, TypeAlias

import structlog
from asyncua import ua
from asyncua.server.address_space import AddressSpace

from adapters.opcua.server.machine_vision.declarations import Argument, Declaration
from adapters.opcua.server.machine_vision.values import accepts, empty, received, variant
from adapters.opcua.server.methods import StationMethods
from adapters.opcua.server.sessions import CALLER
from adapters.opcua.server.users import StationUser

log = structlog.get_logger(__name__)

_MAX_STRUCTURES: Final = 300
"""What the calls of one request may answer, not counting the last one: so many take 20 ms of the event loop."""

_LONGEST_WHY: Final = 300  # characters of a client's making in the log


class Error(IntEnum):
    """The output Error of every method: 0 is OK, what is below 0 the application's (OPC 40100-1, 8.2.4)."""

    OK = 0
    WRONG_STATE = -1
    NOT_READY = -2
    UNKNOWN_ID = -3
    REFUSED = -4


class Refused(Exception):
    """A method cannot do what it was asked."""

    def __init__(self, error: Error, why: str) -> None:
        super().__init__(why)
        self.error = error


class Right(Enum):
    """What a method needs of its caller."""

    READ = "read"
    CONTROL = "control"
    CHOOSE_MODEL = "choose-model"

    def held_by(self, user: object) -> bool:
        """Tell whether `user` may call such a method."""
        match self:
            case Right.READ:
                return isinstance(user, StationUser)
            case Right.CONTROL:
                return isinstance(user, StationUser) and user.writes
            case Right.CHOOSE_MODEL:
                return isinstance(user, StationUser) and user.chooses_model


Handler: TypeAlias = Callable[..., Awaitable[Sequence[Any]]]
"""Takes the input arguments; returns the output arguments but Error, or raises Refused."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its declaration, the object that has it, who may call it, and what it does."""

    declared: Declaration
    owner: ua.NodeId
    right: Right
    handler: Handler

    def arguments(self, name: str) -> tuple[Argument, ...]:
        """Return the input or output arguments."""
        found = [member.value for member in self.declared.members if member.name == name]
        return found[0] if found and isinstance(found[0], tuple) else ()

    async def call(self, request: ua.CallMethodRequest, user: object) -> ua.CallMethodResult:
        """Carry out one call; never raises on a bad one."""
        inputs, given = self.arguments("InputArguments"), request.InputArguments or []
        if request.ObjectId != self.owner:
            return _result(ua.StatusCodes.BadMethodInvalid)
        if not self.right.held_by(user):
            return _result(ua.StatusCodes.BadUserAccessDenied)
        if len(given) != len(inputs):
            too_few = len(given) < len(inputs)
            return _result(ua.StatusCodes.BadArgumentsMissing if too_few else ua.StatusCodes.BadTooManyArguments)
        fits = [accepts(argument, value) for argument, value in zip(inputs, given, strict=True)]
        codes = [ua.StatusCodes.Good if fit else ua.StatusCodes.BadTypeMismatch for fit in fits]
        if not all(fits):
            return _result(ua.StatusCodes.BadInvalidArgument, codes)
        values = [received(argument, value) for argument, value in zip(inputs, given, strict=True)]
        *outputs, _ = self.arguments("OutputArguments")
        try:
            returned, error = await self.handler(*values), Error.OK
        except Refused as exc:
            log.info(
                "method_refused", method=self.declared.name, error=exc.error.name.lower(), why=str(exc)[:_LONGEST_WHY]
            )
            returned, error = [empty(one.data_type, rank=one.rank) for one in outputs], exc.error
        except Exception:  # the supervised boundary: a defect is one failed call
            log.exception("method_failed", method=self.declared.name)
            return _result(ua.StatusCodes.BadInternalError, codes)
        result = _result(ua.StatusCodes.Good, codes)
        result.OutputArguments = [
            variant(argument.data_type, value, rank=argument.rank)
            for argument, value in zip(outputs, returned, strict=True)
        ]
        result.OutputArguments.append(ua.Variant(int(error), ua.VariantType.Int32))
        return result


class VisionMethods(StationMethods):
    """The server's method service: ours by their tables, everything else as without them."""

    def __init__(self, aspace: AddressSpace, methods: Mapping[ua.NodeId, Method]) -> None:
        super().__init__(aspace)
        self._methods = methods

    def may_call(self, user: object, method: ua.NodeId) -> bool:
        """Tell whether a user has the right that a method needs."""
        ours = self._methods.get(method)
        return ours is None or ours.right.held_by(user)

    async def call(self, methods: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Carry out the calls of one request, one after another and others' work in between.

        What comes when that has filled an answer is not carried out: BadTooManyOperations.
        """
        results: list[ua.CallMethodResult] = []
        structures = 0
        for request in methods:
            ours = self._methods.get(request.MethodId)
            if structures >= _MAX_STRUCTURES:
                results.append(_result(ua.StatusCodes.BadTooManyOperations))
            elif ours is None or request.ObjectId not in self._aspace:
                results += await super().call([request])
            else:
                results.append(await ours.call(request, CALLER.get()))
            structures += sum(map(_structures, results[-1].OutputArguments))
            await asyncio.sleep(0)
        return results


def _structures(told: ua.Variant) -> int:
    if told.VariantType is not ua.VariantType.ExtensionObject:
        return 0
    return len(told.Value) if isinstance(told.Value, list) else 1


def _result(code: int, arguments: Sequence[int] = ()) -> ua.CallMethodResult:
    result = ua.CallMethodResult()
    result.StatusCode = ua.StatusCode(ua.UInt32(code))
    result.InputArgumentResults = [ua.StatusCode(ua.UInt32(one)) for one in arguments]
    return result


RIGHTS: Final = {
    "Reset": Right.CONTROL,
    "Halt": Right.CONTROL,
    "SelectModeAutomatic": Right.CONTROL,
    "StartSingleJob": Right.CONTROL,
    "StartContinuous": Right.CONTROL,
    "Stop": Right.CONTROL,
    "Abort": Right.CONTROL,
    "SimulationMode": Right.CONTROL,
    "PrepareRecipe": Right.CHOOSE_MODEL,
    "UnprepareRecipe": Right.CHOOSE_MODEL,
    "ActivateConfiguration": Right.CHOOSE_MODEL,
    "GetResultById": Right.READ,
    "GetResultComponentsById": Right.READ,
    "GetResultListFiltered": Right.READ,
    "ReleaseResultHandle": Right.READ,
    "GetRecipeListFiltered": Right.READ,
    "GetConfigurationById": Right.READ,
    "GetConfigurationList": Right.READ,
}
"""What each method needs of its caller."""
