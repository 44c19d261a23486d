"""VisionSystemType with its result, recipe and configuration management (OPC 40100-1, clause 7)."""

from __future__ import annotations

from typing import Final

from adapters.opcua.server.machine_vision.data_types import HANDLE, RESULT_STATE
from adapters.opcua.server.machine_vision.declarations import (
    Argument,
    Base,
    Declaration,
    NodeClass,
    Rule,
    instance,
    method,
    object_type,
    variable,
)
from adapters.opcua.server.machine_vision.event_types import EVENT_TYPES
from adapters.opcua.server.machine_vision.state_machines import (
    AUTOMATIC_MODE,
    FROM_TRANSITION,
    STATE_MACHINE,
    TO_TRANSITION,
)

_OPTIONAL = Rule.OPTIONAL
_ERROR = Argument("Error", Base.INT32)
_TIMEOUT = Argument("Timeout", Base.INT32)
_PAGE = (Argument("MaxResults", Base.UINT32), Argument("StartIndex", Base.UINT32), _TIMEOUT)
_LISTED = (Argument("IsComplete", Base.BOOLEAN), Argument("ResultCount", Base.UINT32))

RESULT: Final = Declaration(
    2002,
    "ResultType",
    NodeClass.VARIABLE_TYPE,
    Base.BASE_DATA_VARIABLE_TYPE,
    data_type=3006,
    members=(
        variable(6331, "CreationTime", Base.UTC_TIME),
        variable(6095, "ExternalRecipeId", 3002, _OPTIONAL),
        variable(6329, "InternalConfigurationId", 3008),
        variable(6284, "InternalRecipeId", 3013),
        variable(6052, "IsPartial", Base.BOOLEAN),
        variable(6053, "IsSimulated", Base.BOOLEAN, _OPTIONAL),
        variable(6330, "JobId", 3016),
        variable(6055, "MeasId", 3015, _OPTIONAL),
        variable(6094, "PartId", 3004, _OPTIONAL),
        variable(6332, "ProcessingTimes", 3005, _OPTIONAL),
        variable(6327, "ProductId", 3003, _OPTIONAL),
        variable(6333, "ResultContent", Base.BASE_DATA_TYPE, _OPTIONAL, rank=1),
        variable(6046, "ResultId", 3021),
        variable(6054, "ResultState", RESULT_STATE),
    ),
)

RESULT_FOLDER: Final = object_type(
    1016,
    "ResultFolderType",
    Base.FOLDER_TYPE,
    variable(6168, "<ResultVariable>", 3006, Rule.OPTIONAL_PLACEHOLDER, type_=RESULT.id),
)

RESULT_MANAGEMENT: Final = object_type(
    1007,
    "ResultManagementType",
    Base.BASE_OBJECT_TYPE,
    method(
        7026,
        "GetResultById",
        inputs=(6209, (Argument("ResultId", 3021), _TIMEOUT)),
        outputs=(6210, (Argument("ResultHandle", HANDLE), Argument("Result", 3006), _ERROR)),
    ),
    method(
        7007,
        "GetResultComponentsById",
        inputs=(6024, (Argument("ResultId", 3021), _TIMEOUT)),
        outputs=(
            6025,
            (
                Argument("HasTransferableDataOnFile", Base.BOOLEAN),
                Argument("ResultHandle", HANDLE),
                Argument("IsPartial", Base.BOOLEAN),
                Argument("IsSimulated", Base.BOOLEAN),
                Argument("ResultState", RESULT_STATE),
                Argument("MeasId", 3015),
                Argument("PartId", 3004),
                Argument("ExternalRecipeId", 3002),
                Argument("InternalRecipeId", 3013),
                Argument("ProductId", 3003),
                Argument("ExternalConfigurationId", 3008),
                Argument("InternalConfigurationId", 3008),
                Argument("JobId", 3016),
                Argument("CreationTime", Base.UTC_TIME),
                Argument("ProcessingTimes", 3005),
                Argument("ResultContent", Base.BASE_DATA_TYPE, 1),
                _ERROR,
            ),
        ),
    ),
    method(
        7089,
        "GetResultListFiltered",
        inputs=(
            6213,
            (
                Argument("ResultState", RESULT_STATE),
                Argument("MeasId", 3015),
                Argument("PartId", 3004),
                Argument("ExternalRecipeId", 3002),
                Argument("InternalRecipeId", 3013),
                Argument("ExternalConfigurationId", 3008),
                Argument("InternalConfigurationId", 3008),
                Argument("ProductId", 3003),
                Argument("JobId", 3016),
                *_PAGE,
            ),
        ),
        outputs=(6214, (*_LISTED, Argument("ResultHandle", HANDLE), Argument("ResultList", 3006, 1), _ERROR)),
    ),
    method(
        7090,
        "ReleaseResultHandle",
        inputs=(6217, (Argument("ResultHandle", HANDLE),)),
        outputs=(6218, (_ERROR,)),
        rule=_OPTIONAL,
    ),
    instance(5245, "Results", RESULT_FOLDER.id, _OPTIONAL),
)

RECIPE_MANAGEMENT: Final = object_type(
    1004,
    "RecipeManagementType",
    Base.BASE_OBJECT_TYPE,
    method(
        7014,
        "GetRecipeListFiltered",
        inputs=(
            6156,
            (Argument("ExternalId", 3002), Argument("ProductId", 3003), Argument("IsPrepared", 3014), *_PAGE),
        ),
        outputs=(6157, (*_LISTED, Argument("RecipeHandle", HANDLE), Argument("RecipeList", 3013, 1), _ERROR)),
    ),
    method(
        7015,
        "PrepareRecipe",
        inputs=(6148, (Argument("ExternalId", 3002), Argument("InternalIdIn", 3013))),
        outputs=(6149, (Argument("InternalIdOut", 3013), Argument("IsCompleted", Base.BOOLEAN), _ERROR)),
    ),
    method(
        7055,
        "UnprepareRecipe",
        inputs=(6152, (Argument("ExternalId", 3002), Argument("InternalIdIn", 3013))),
        outputs=(6153, (Argument("InternalIdOut", 3013), _ERROR)),
    ),
)

CONFIGURATION_MANAGEMENT: Final = object_type(
    1006,
    "ConfigurationManagementType",
    Base.BASE_OBJECT_TYPE,
    method(
        7048,
        "ActivateConfiguration",
        inputs=(6116, (Argument("InternalId", 3008),)),
        outputs=(6117, (_ERROR,)),
    ),
    variable(6132, "ActiveConfiguration", 3007),
    method(
        7041,
        "GetConfigurationById",
        inputs=(6100, (Argument("InternalId", 3008), _TIMEOUT)),
        outputs=(6101, (Argument("ConfigurationHandle", HANDLE), Argument("Configuration", 3007), _ERROR)),
    ),
    method(
        7045,
        "GetConfigurationList",
        inputs=(6104, _PAGE),
        outputs=(
            6105,
            (*_LISTED, Argument("ConfigurationHandle", HANDLE), Argument("ConfigurationList", 3007, 1), _ERROR),
        ),
    ),
)

VISION_SYSTEM: Final = object_type(
    1003,
    "VisionSystemType",
    Base.BASE_OBJECT_TYPE,
    instance(5004, "ConfigurationManagement", CONFIGURATION_MANAGEMENT.id, _OPTIONAL),
    instance(5015, "RecipeManagement", RECIPE_MANAGEMENT.id, _OPTIONAL),
    instance(5020, "ResultManagement", RESULT_MANAGEMENT.id, _OPTIONAL),
    variable(6049, "SystemState", 3024, _OPTIONAL),
    instance(5053, "VisionStateMachine", STATE_MACHINE.id),
)

OBJECT_TYPES: Final = (
    AUTOMATIC_MODE,
    STATE_MACHINE,
    RESULT_FOLDER,
    RESULT_MANAGEMENT,
    RECIPE_MANAGEMENT,
    CONFIGURATION_MANAGEMENT,
    VISION_SYSTEM,
)

TYPES: Final = (FROM_TRANSITION, TO_TRANSITION, RESULT, *EVENT_TYPES, *OBJECT_TYPES)
"""Everything of the standard's namespace but its data types."""

BY_ID: Final = {declared.id: declared for declared in TYPES}
