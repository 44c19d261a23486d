"""The last results: filters, pages, handles, and what a verdict becomes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import variant_from_binary, variant_to_binary
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.server.machine_vision.data_types import (
    STRUCTURES,
    ConfigurationIdDataType,
    MeasIdDataType,
    PartIdDataType,
    ProductIdDataType,
    ResultDataType,
    ResultState,
    register,
    row,
)
from adapters.opcua.server.machine_vision.declarations import Argument, Base
from adapters.opcua.server.machine_vision.jobs import Job
from adapters.opcua.server.machine_vision.results import KEPT, ResultFilter, Results, result_of
from adapters.opcua.server.machine_vision.values import accepts, empty, received, variant
from schemas.messages import Decision
from tests.support.opcua import verdict

register(2)
CONFIGURATION = ConfigurationIdDataType(Id=ua.String("line1"))
OBJECT = ua.VariantType.ExtensionObject
FIELDS = (3015, 3004, 3002, 3013, 3008, 3008, 3003, 3016)


def result(seq: int = 1, decision: Decision = Decision.OK, job: Job | None = None) -> ResultDataType:
    said = verdict(seq, decision, part_id=f"C-{seq}")
    return result_of(said, said.to_json().decode(), job, CONFIGURATION)


def wanted(**ids: Any) -> ResultFilter:
    names = list(ResultFilter.__dataclass_fields__)
    values = dict(zip(names, [0, *(empty(field) for field in FIELDS)], strict=True))
    return ResultFilter(**(values | ids))


def test_verdicts_become_results_in_the_state_they_have() -> None:
    """OK and DAMAGED are completed work, ERROR failed; an aborted job's result says so whatever was found."""
    states = [ResultState(result(1, decision).ResultState) for decision in Decision]
    assert states == [ResultState.COMPLETED, ResultState.COMPLETED, ResultState.FAILED]
    job = Job("j", datetime.now(UTC), meas_id=MeasIdDataType(Id=ua.String("m")), aborted=True)
    aborted = result(1, Decision.DAMAGED, job)
    assert ResultState(aborted.ResultState) is ResultState.ABORTED
    assert (str(aborted.JobId.Id), aborted.MeasId) == ("j", job.meas_id)
    assert result(1, Decision.ERROR).InternalRecipeId.Id == ""


@pytest.mark.parametrize(
    ("named", "of_job", "expected"),
    [
        ("C-1", None, ("C-1", None)),
        ("C-1", "C-9", ("C-1", None)),
        ("C-9", "C-9", ("C-9", "as the client described it")),
        (None, "C-9", ("C-9", "as the client described it")),
        (None, None, None),
    ],
)
def test_part_of_a_result_is_the_one_that_was_judged(
    named: str | None, of_job: str | None, expected: tuple[str, str | None] | None
) -> None:
    """A continuous job has many parts: its own part id is for those that come without one."""
    text = ua.LocalizedText("as the client described it")
    of_client = PartIdDataType(Id=ua.String(of_job), Description=text) if of_job else None
    said = verdict(1, part_id=named)
    made = result_of(said, said.to_json().decode(), Job("j", datetime.now(UTC), part_id=of_client), CONFIGURATION)
    shown = made.PartId and (made.PartId.Id, made.PartId.Description and made.PartId.Description.Text)
    assert shown == expected


def test_filters_cover_what_they_name_and_everything_where_they_name_nothing() -> None:
    """An id is the same with the same text, and the same version where one is asked for."""
    results = Results(set)
    job = Job("j", datetime.now(UTC), product_id=ProductIdDataType(Id=ua.String("can")))
    for one in (result(1), result(2, Decision.ERROR), result(3, job=job)):
        results.add(one)

    def parts(**ids: Any) -> list[str]:
        return [one.PartId.Id for one in results.matching(wanted(**ids)) if one.PartId]

    def named(data_type: int, text: str, **more: str) -> Any:
        made = empty(data_type)
        made.Id = text
        for field, value in more.items():
            setattr(made, field, value)
        return made

    assert parts() == ["C-3", "C-2", "C-1"]
    assert parts(state=ResultState.FAILED) == ["C-2"]
    assert parts(part_id=named(3004, "C-1")) == ["C-1"]
    assert parts(product_id=named(3003, "can")) == ["C-3"]
    assert parts(job_id=named(3016, "j")) == ["C-3"]
    assert parts(external_recipe_id=named(3002, "canister")) == ["C-3", "C-1"]
    assert parts(external_recipe_id=named(3002, "canister", Version="4")) == []
    assert parts(internal_recipe_id=named(3013, "canister@3", Version="3")) == ["C-3", "C-1"]
    assert parts(meas_id=named(3015, "m")) == []
    assert parts(external_configuration_id=named(3008, "line1")) == []
    assert len(parts(internal_configuration_id=named(3008, "line1"))) == 3


def test_results_are_bounded_and_a_held_one_outlives_its_place() -> None:
    """A handle keeps what it was given for, until it is released."""
    results = Results(lambda: {"client"})
    first = result(1)
    results.add(first)
    handle = results.hold([first], "client")
    for seq in range(2, KEPT + 2):
        results.add(result(seq))
    assert len(results.matching(wanted())) == KEPT
    assert results.find("event-1", "client") is first
    assert results.release(handle, "client")
    assert results.find("event-1", "client") is None
    assert not results.release(handle, "client")


def test_each_client_holds_so_many_results_and_no_more() -> None:
    """Its own oldest handle makes room; of another it can neither release nor see what is held."""
    there = {"client", "other"}
    results = Results(lambda: there)
    first, more = result(1), [result(seq) for seq in range(2, KEPT + 2)]
    handle = results.hold([first], "client")
    assert not results.release(handle, "other")
    assert results.find("event-1", "other") is None
    handles = [results.hold(more, "other") for _ in range(3)]
    assert [results.release(one, "other") for one in handles] == [False, True, True]
    assert results.find("event-1", "client") is first
    assert len({handle, *handles}) == 4


@pytest.mark.parametrize("happens", ["verdict", "handle"])
def test_handles_go_with_the_session_they_belong_to(happens: str) -> None:
    """Also where no part comes: clients who log in, hold and leave would fill the memory."""
    there = {"client", "other"}
    results, first = Results(lambda: there), result(1)
    handle = results.hold([first], "client")
    there.remove("client")
    if happens == "verdict":
        results.add(result(2))
    else:
        results.hold([first], "other")
    assert "client" not in results._held
    assert not results.release(handle, "client")


@given(st.data())
def test_every_structure_survives_the_wire(data: st.DataObject) -> None:
    """Encoded under its own id, decoded as the same class with the same fields; optional ones may be missing."""
    structure = data.draw(st.sampled_from([one for one in STRUCTURES if one.__name__ != "BinaryIdBaseDataType"]))
    data_type, encoding, _ = row(structure)
    made = empty(data_type)
    for name in ("Id", "Version", "HashAlgorithm", "StateDescription"):
        if hasattr(made, name):
            setattr(made, name, data.draw(st.text(max_size=20) if name == "Id" else st.none() | st.text(max_size=20)))
    if structure is ResultDataType:
        made.MeasId = data.draw(st.none() | st.builds(lambda text: MeasIdDataType(Id=text), st.text(max_size=9)))
        made.ResultContent = data.draw(st.none() | st.lists(st.builds(ua.Variant, st.text(max_size=9)), max_size=3))
    encoded = variant_to_binary(variant(data_type, made))
    assert encoded[1:5] == bytes([1, 2]) + encoding.to_bytes(2, "little")
    back = variant_from_binary(Buffer(encoded)).Value
    assert type(back) is structure
    assert back == made


@pytest.mark.parametrize(
    ("argument", "given", "expected"),
    [
        (Argument("Cause", Base.INT32), ua.Variant(1, ua.VariantType.Int32), 1),
        (Argument("Cause", Base.INT32), ua.Variant(1, ua.VariantType.UInt32), None),
        (Argument("Cause", Base.INT32), ua.Variant(None), None),
        (Argument("Cause", Base.INT32), ua.Variant([1], ua.VariantType.Int32), None),
        (Argument("Text", Base.STRING), ua.Variant("x"), "x"),
        (Argument("Text", Base.STRING), ua.Variant(None, ua.VariantType.String), ""),
        (Argument("Text", Base.STRING), ua.Variant(b"x"), None),
        (Argument("MeasId", 3015), ua.Variant(None), empty(3015)),
        (Argument("MeasId", 3015), variant(3015, MeasIdDataType(Id=ua.String("m"))), MeasIdDataType(Id=ua.String("m"))),
        (Argument("MeasId", 3015), variant(3004, empty(3004)), None),
        (Argument("MeasId", 3015), ua.Variant(ua.ExtensionObject(), OBJECT), empty(3015)),
        (Argument("MeasId", 3015), ua.Variant(ua.ExtensionObject(ua.NodeId(ua.Int32(7))), OBJECT), None),
        (Argument("MeasId", 3015), ua.Variant(ua.ExtensionObject(Body=ua.ByteString(b"x")), OBJECT), None),
        (Argument("Text", Base.STRING), ua.Variant(ua.ExtensionObject(), OBJECT), None),
        (Argument("Parameters", Base.BASE_DATA_TYPE, 1), ua.Variant(None), []),
        (Argument("Parameters", Base.BASE_DATA_TYPE, 1), ua.Variant("x"), None),
        (Argument("Parameters", Base.BASE_DATA_TYPE, 1), ua.Variant(["x"], ua.VariantType.String), ["x"]),
        (Argument("Parameters", Base.BASE_DATA_TYPE, 1), ua.Variant([ua.Variant("x")], ua.VariantType.Variant), ["x"]),
    ],
)
def test_arguments_are_taken_as_declared_or_not_at_all(argument: Argument, given: ua.Variant, expected: object) -> None:
    """`expected` None is a type mismatch; a null is an empty text, structure or array."""
    assert accepts(argument, given) is (expected is not None)
    if expected is not None:
        assert received(argument, given) == expected
