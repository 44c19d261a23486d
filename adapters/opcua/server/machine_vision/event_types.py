"""The event types of OPC 40100-1 that a station raises (clauses 8.2.5 and 8.3.8)."""

from __future__ import annotations

from typing import Final

from adapters.opcua.server.machine_vision.data_types import RESULT_STATE
from adapters.opcua.server.machine_vision.declarations import Base, Rule, event_field, object_type

_OPTIONAL = Rule.OPTIONAL

STATE_CHANGED: Final = object_type(1018, "StateChangedEventType", Base.TRANSITION_EVENT_TYPE)
ERROR: Final = object_type(1019, "ErrorEventType", Base.TRANSITION_EVENT_TYPE)
ERROR_RESOLVED: Final = object_type(1020, "ErrorResolvedEventType", Base.TRANSITION_EVENT_TYPE)
JOB_STARTED: Final = object_type(1013, "JobStartedEventType", Base.BASE_EVENT_TYPE, event_field(6141, "JobId", 3016))
READY: Final = object_type(1023, "ReadyEventType", Base.BASE_EVENT_TYPE, event_field(6294, "JobId", 3016))
RECIPE_PREPARED: Final = object_type(
    1022,
    "RecipePreparedEventType",
    Base.BASE_EVENT_TYPE,
    event_field(6291, "ExternalId", 3002, _OPTIONAL),
    event_field(6140, "InternalId", 3013),
    event_field(6292, "ProductId", 3003, _OPTIONAL),
)
RESULT_READY: Final = object_type(
    1024,
    "ResultReadyEventType",
    Base.BASE_EVENT_TYPE,
    event_field(6303, "CreationTime", Base.UTC_TIME),
    event_field(6045, "ExternalConfigurationId", 3008, _OPTIONAL),
    event_field(6301, "ExternalRecipeId", 3002, _OPTIONAL),
    event_field(6142, "InternalConfigurationId", 3008),
    event_field(6302, "InternalRecipeId", 3013),
    event_field(6296, "IsPartial", Base.BOOLEAN),
    event_field(6297, "IsSimulated", Base.BOOLEAN, _OPTIONAL),
    event_field(6300, "JobId", 3016),
    event_field(6299, "MeasId", 3015, _OPTIONAL),
    event_field(6304, "PartId", 3004, _OPTIONAL),
    event_field(6305, "ProcessingTimes", 3005, _OPTIONAL),
    event_field(6143, "ProductId", 3003, _OPTIONAL),
    event_field(6306, "ResultContent", Base.BASE_DATA_TYPE, _OPTIONAL, rank=1),
    event_field(6295, "ResultId", 3021),
    event_field(6298, "ResultState", RESULT_STATE),
)

EVENT_TYPES: Final = (STATE_CHANGED, ERROR, ERROR_RESOLVED, JOB_STARTED, READY, RECIPE_PREPARED, RESULT_READY)
