"""The last results of the station as the standard's ResultDataType, and what clients may ask of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from asyncua import ua

from adapters.opcua.server.machine_vision.data_types import (
    BinaryIdBaseDataType,
    ConfigurationIdDataType,
    JobIdDataType,
    MeasIdDataType,
    PartIdDataType,
    ProcessingTimesDataType,
    ProductIdDataType,
    RecipeIdExternalDataType,
    RecipeIdInternalDataType,
    ResultDataType,
    ResultIdDataType,
    ResultState,
)
from adapters.opcua.server.machine_vision.jobs import Job
from schemas.messages import Decision, ModelRef, Verdict

KEPT: Final = 100
"""How many results can be asked for."""

_SHA_256: Final = ua.String("SHA-256")
_HELD: Final = 2 * KEPT
"""How many results a client may hold by its handles; the oldest handle is released for a new one."""

Client: TypeAlias = Hashable
"""Who asks: a session of the server."""


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """What GetResultListFiltered asks for; an id whose text is empty asks for any (OPC 40100-1, 7.10.2.3)."""

    state: int
    meas_id: MeasIdDataType
    part_id: PartIdDataType
    external_recipe_id: RecipeIdExternalDataType
    internal_recipe_id: RecipeIdInternalDataType
    external_configuration_id: ConfigurationIdDataType
    internal_configuration_id: ConfigurationIdDataType
    product_id: ProductIdDataType
    job_id: JobIdDataType

    def covers(self, result: ResultDataType) -> bool:
        """Tell whether `result` is asked for."""
        return (
            self.state in {0, result.ResultState}
            and is_same(self.meas_id, result.MeasId)
            and is_same(self.part_id, result.PartId)
            and is_same(self.external_recipe_id, result.ExternalRecipeId)
            and is_same(self.internal_recipe_id, result.InternalRecipeId)
            and is_same(self.external_configuration_id, result.ExternalConfigurationId)
            and is_same(self.internal_configuration_id, result.InternalConfigurationId)
            and is_same(self.product_id, result.ProductId)
            and is_same(self.job_id, result.JobId)
        )


class Results:
    """The last results, newest last, and the sets that each client holds by its handles.

    clients: those who are there now. Handles of the others go with the next verdict or the next handle, so that
    clients who come and go while no part comes leave nothing behind.
    """

    def __init__(self, clients: Callable[[], Collection[Client]]) -> None:
        self._clients = clients
        self._by_id: OrderedDict[str, ResultDataType] = OrderedDict()
        self._held: dict[Client, OrderedDict[int, tuple[ResultDataType, ...]]] = {}
        self._last_handle = 0

    def add(self, result: ResultDataType) -> None:
        """Keep `result`; the oldest goes where there are too many."""
        self._by_id[result.ResultId.Id] = result
        self._by_id.move_to_end(result.ResultId.Id)
        while len(self._by_id) > KEPT:
            self._by_id.popitem(last=False)
        self._drop_ended()

    def find(self, result_id: str, client: Client) -> ResultDataType | None:
        """Return the result of that id, also one that the client still holds; None for an unknown one."""
        held = (one for results in self._held.get(client, {}).values() for one in results)
        return self._by_id.get(result_id) or next((one for one in held if one.ResultId.Id == result_id), None)

    def matching(self, wanted: ResultFilter) -> Sequence[ResultDataType]:
        """Return the results that `wanted` covers, newest first."""
        return [result for result in reversed(self._by_id.values()) if wanted.covers(result)]

    def hold(self, results: Iterable[ResultDataType], client: Client) -> int:
        """Keep `results` for a client until it releases the handle that is returned."""
        self._drop_ended()
        self._last_handle = self._last_handle % 0xFFFF_FFFF + 1  # 0 means that there is nothing to release
        held = self._held.setdefault(client, OrderedDict())
        held[self._last_handle] = tuple(results)
        while sum(map(len, held.values())) > _HELD:
            held.popitem(last=False)
        return self._last_handle

    def release(self, handle: int, client: Client) -> bool:
        """Let go of a set that the client holds; tell whether there was one."""
        held = self._held.get(client)
        return held is not None and held.pop(handle, None) is not None

    def _drop_ended(self) -> None:
        for gone in self._held.keys() - self._clients():
            del self._held[gone]


def result_of(
    verdict: Verdict, verdict_json: str, job: Job | None, configuration: ConfigurationIdDataType
) -> ResultDataType:
    """Return `verdict` as a result; its content is the Verdict JSON. A part without a job is a job of its own."""
    return ResultDataType(
        ResultId=ResultIdDataType(Id=ua.String(verdict.event_id)),
        HasTransferableDataOnFile=_flag(value=False),
        IsPartial=_flag(value=False),
        IsSimulated=_flag(value=verdict.simulated),
        ResultState=ua.Int32(_state(verdict, job)),
        MeasId=job.meas_id if job else None,
        PartId=_part_id(verdict, job),
        ExternalRecipeId=external_id(verdict.model) if verdict.model else None,
        InternalRecipeId=internal_id(verdict.model),
        ProductId=job.product_id if job else None,
        ExternalConfigurationId=None,
        InternalConfigurationId=configuration,
        JobId=JobIdDataType(Id=ua.String(job.id if job else verdict.event_id)),
        CreationTime=cast("ua.DateTime", verdict.decided_at),
        ProcessingTimes=ProcessingTimesDataType(
            StartTime=cast("ua.DateTime", verdict.received_at),
            EndTime=cast("ua.DateTime", verdict.decided_at),
            AcquisitionDuration=None if verdict.stages_ms.load is None else ua.Double(verdict.stages_ms.load),
            ProcessingDuration=ua.Double(verdict.stages_ms.total()),
        ),
        ResultContent=[ua.Variant(verdict_json, ua.VariantType.String)],
    )


def external_id(model: ModelRef) -> RecipeIdExternalDataType:
    """Return the id by which the plant knows a model: its name and version."""
    return RecipeIdExternalDataType(
        Id=ua.String(model.name),
        Version=ua.String(model.version),
        Hash=ua.ByteString(bytes.fromhex(model.sha256)),
        HashAlgorithm=_SHA_256,
    )


def internal_id(model: ModelRef | None) -> RecipeIdInternalDataType:
    """Return the id by which the station knows a model; empty where there is none."""
    if model is None:
        return RecipeIdInternalDataType(Id=ua.String(""))
    return RecipeIdInternalDataType(
        Id=ua.String(model.reference),
        Version=ua.String(model.version),
        Hash=ua.ByteString(bytes.fromhex(model.sha256)),
        HashAlgorithm=_SHA_256,
    )


def _flag(*, value: bool) -> ua.Boolean:
    return cast("ua.Boolean", value)


def _part_id(verdict: Verdict, job: Job | None) -> PartIdDataType | None:
    """Return the part that was judged, as the job describes it; that of the job where the event named none."""
    of_job = job.part_id if job else None
    if not verdict.part_id or (of_job is not None and of_job.Id == verdict.part_id):
        return of_job
    return PartIdDataType(Id=ua.String(verdict.part_id))


def _state(verdict: Verdict, job: Job | None) -> ResultState:
    if job is not None and job.aborted:
        return ResultState.ABORTED
    return ResultState.FAILED if verdict.decision is Decision.ERROR else ResultState.COMPLETED


def is_same(
    wanted: BinaryIdBaseDataType | MeasIdDataType | PartIdDataType | ProductIdDataType | JobIdDataType,
    found: BinaryIdBaseDataType | MeasIdDataType | PartIdDataType | ProductIdDataType | JobIdDataType | None,
) -> bool:
    """Tell whether `found` is the id `wanted`: the same text, and the same version where one is asked for."""
    if not wanted.Id:
        return True
    if found is None or found.Id != wanted.Id:
        return False
    version = wanted.Version if isinstance(wanted, BinaryIdBaseDataType) else None
    return not version or (isinstance(found, BinaryIdBaseDataType) and found.Version == version)
