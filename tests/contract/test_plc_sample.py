"""The sample PLC code, run: what it does alone, and with a real station at the other end of OPC UA."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas.messages import Decision
from schemas.tags import Tag
from tests.support.opcua import answer, served_station, status, verdict
from tests.support.structured_text import FunctionBlock, Value

SAMPLE = Path(__file__).parents[2] / "deploy" / "plc" / "cangate_gate.st"
CYCLE_S = 0.01


class Gate:
    """The function block in a controller with a cycle of 10 ms; `tags` is what its OPC UA client last got."""

    def __init__(self) -> None:
        self.block = FunctionBlock.load(SAMPLE)
        self.now = 0.0
        self.beats = 1
        self.beating = True
        self.tags: dict[str, Value] = {"Online": True, "Enable": True, "Ready": True}
        self.passed: list[Value] = []

    def run(self, tags: Mapping[str, Value] | None = None, *, seconds: float = CYCLE_S) -> dict[str, Value]:
        """Take in `tags` and run for `seconds`; return the outputs of the last cycle."""
        self.tags |= tags or {}
        outputs: dict[str, Value] = {}
        for _ in range(round(seconds / CYCLE_S)):
            self.now += CYCLE_S
            if self.beating and self.now >= self.beats * 0.5:
                self.beats += 1
            outputs = self.block.cycle(self.now, **{"Heartbeat": self.beats} | self.tags)
            if outputs["Decided"]:
                self.passed.append(outputs["PassPart"])
            assert outputs["Decided"] or not outputs["PassPart"]
        return outputs

    def part(self) -> int:
        """Let a part come to the camera; return the trigger that was given."""
        self.run({"PartAtCamera": False})
        trigger = self.run({"PartAtCamera": True})["Trigger"]
        assert isinstance(trigger, int)
        return trigger


OK: dict[str, Value] = {"ResultValid": True, "Verdict": 1, "Reject": False}


@pytest.fixture
def gate() -> Gate:
    """A gate that has seen the heart beat."""
    made = Gate()
    assert made.run(seconds=1.1)["Trusted"]
    return made


def test_sample_passes_only_a_valid_ok_for_its_own_trigger(gate: Gate) -> None:
    """Every single thing that is not as it must be rejects the part."""
    seq = 10
    for unlike in (
        {},
        {"Verdict": 0},
        {"Verdict": 2},
        {"Verdict": 3},
        {"Reject": True},
        {"ResultValid": False},
    ):
        trigger, seq = gate.part(), seq + 1
        outputs = gate.run({**OK, **unlike, "ResultSeq": seq, "ResultTriggerId": trigger})
        assert outputs["ResultAck"] == seq
    assert gate.passed == [True, *[False] * 5]
    outputs = gate.run()
    assert (outputs["Passed"], outputs["Rejected"], outputs["TimedOut"]) == (1, 5, 0)


def test_sample_rejects_at_the_deadline_and_ignores_what_comes_later(gate: Gate) -> None:
    """A late OK, or the OK of another part, opens nothing; both are acknowledged."""
    trigger = gate.part()
    outputs = gate.run({**OK, "ResultSeq": 7, "ResultTriggerId": trigger + 1}, seconds=0.4)
    assert (gate.passed, outputs["Waiting"], outputs["ResultAck"]) == ([], True, 7)
    outputs = gate.run(seconds=0.2)
    assert (gate.passed, outputs["TimedOut"]) == ([False], 1)
    outputs = gate.run({**OK, "ResultSeq": 8, "ResultTriggerId": trigger})
    assert (gate.passed, outputs["ResultAck"]) == ([False], 8)


@pytest.mark.parametrize("other", [0, 41])
def test_sample_passes_nothing_on_the_result_of_an_event_that_came_another_way(gate: Gate, other: int) -> None:
    """An OK over MQTT, without a trigger id or with one of its own, while the part waits: then its own answer comes."""
    trigger = gate.part()
    outputs = gate.run({**OK, "ResultSeq": 7, "ResultTriggerId": other})
    assert (gate.passed, outputs["Waiting"], outputs["ResultAck"]) == ([], True, 7)
    gate.run({"Verdict": 2, "Reject": True, "ResultSeq": 8, "ResultTriggerId": trigger})
    assert gate.passed == [False]


def test_sample_stops_trusting_a_heart_that_stands_still(gate: Gate) -> None:
    """Two seconds without a beat: what waits is rejected, nothing is triggered, until it beats again."""
    gate.tags["Deadline"] = 60.0
    gate.beating = False
    trigger = gate.part()
    assert gate.run(seconds=1.5)["Waiting"]
    outputs = gate.run(OK, seconds=0.7)
    assert (gate.passed, outputs["Trusted"]) == ([False], False)
    assert (gate.part(), gate.run()["NotTaken"], gate.passed) == (trigger, 1, [False, False])
    gate.run(seconds=10)
    gate.beating = True
    gate.run(seconds=1.2)
    assert gate.part() == trigger + 1


def test_sample_asks_nothing_while_offline_not_ready_or_disabled(gate: Gate) -> None:
    """Such a part is rejected at once."""
    for lack in ({"Ready": False}, {"Enable": False}, {"Online": False}):
        gate.run({"Ready": True, "Enable": True, "Online": True}, seconds=1.2)
        assert gate.run()["Trusted"]
        gate.run(lack)
        gate.part()
    assert gate.passed == [False] * 3
    assert gate.run()["Trigger"] == 0


def test_sample_takes_no_result_for_its_own_that_stood_there_before(gate: Gate) -> None:
    """After a reconnect the tags show some earlier part, whose trigger number may be the next one."""
    gate.run({**OK, "Online": False, "ResultSeq": 99, "ResultTriggerId": 1})
    gate.run({"Online": True}, seconds=1.1)
    assert gate.part() == 1
    assert gate.run(seconds=0.1)["Waiting"]
    gate.run({**OK, "ResultSeq": 100, "ResultTriggerId": 1})
    assert gate.passed == [True]


def test_sample_rejects_a_part_that_the_next_one_overtakes(gate: Gate) -> None:
    """An answer for the first is then no answer for the second."""
    first = gate.part()
    second = gate.part()
    outputs = gate.run({**OK, "ResultSeq": 5, "ResultTriggerId": first})
    assert (outputs["Rejected"], outputs["Waiting"]) == (1, True)
    gate.run({**OK, "ResultSeq": 6, "ResultTriggerId": second})
    assert gate.passed == [True]


async def test_sample_runs_a_real_station(tmp_path: Path) -> None:
    """Over OPC UA: an OK passes, a DAMAGED and an ERROR do not, every result is acknowledged."""
    async with served_station(tmp_path) as station:
        decisions = (Decision.OK, Decision.DAMAGED, Decision.ERROR)
        gate, beat = Gate(), 0
        inputs = ("Ready", "Heartbeat", "ResultSeq", "ResultTriggerId", "ResultValid", "Verdict", "Reject")

        async def exchange(more: Mapping[str, Value] | None = None) -> dict[str, Value]:
            nonlocal beat
            beat += 1
            await station.adapter.publish_status(status(heartbeat=beat), ready=True)
            values = await station.read(*(Tag[name] for name in inputs))
            read = {name: value for name, value in zip(inputs, values, strict=True) if isinstance(value, bool | int)}
            outputs = gate.run(read | dict(more or {}))
            if outputs["Trigger"] != station.adapter._tags.number(Tag.Trigger):  # type: ignore[union-attr] # it is open
                await station.write({Tag.TriggerPartId: str(outputs["TriggerPartId"])})
                await station.write({Tag.TriggerImageUri: str(outputs["TriggerImageUri"])})
                await station.write({Tag.Trigger: int(outputs["Trigger"])})
            await station.write({Tag.ResultAck: int(outputs["ResultAck"])})
            return outputs

        async with asyncio.timeout(20):
            while not (await exchange())["Trusted"]:
                pass
            for seq, decision in enumerate(decisions, start=1):
                await exchange({"PartAtCamera": False})
                await exchange({"PartAtCamera": True, "PartId": f"C-{seq}", "ImageUri": f"file:///{seq}.png"})
                event = (await station.arrival()).event
                assert (event.trigger_id, event.part_id) == (seq, f"C-{seq}")
                said = verdict(seq, decision, event_id=event.event_id, trigger_id=seq)
                await station.adapter.publish(answer(said))
                while not (await exchange())["Decided"]:
                    pass
        assert gate.passed == [True, False, False]
        assert await station.read(Tag.UnackedResults, Tag.ResultAck) == [0, 3]
