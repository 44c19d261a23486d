"""The ledger of a drill: it must see every way in which the promise can be broken."""

from __future__ import annotations

import pytest

from adapters.drill.ledger import Findings, Ledger
from adapters.drill.part import Way
from schemas.messages import Decision, Gate, GateCommand, Verdict
from tests.support.mqtt import verdict


def asked(*event_ids: str) -> Ledger:
    ledger = Ledger()
    for event_id in event_ids:
        ledger.ask(event_id, 10.0)
    return ledger


def text(event_id: str, seq: int, gate: Gate = Gate.PASS) -> bytes:
    return verdict(event_id, seq=seq, gate=gate).to_json()


def command(event_id: str, gate: Gate = Gate.PASS, *, seq: int = 1) -> bytes:
    return GateCommand.of(verdict(event_id, seq=seq, gate=gate)).to_json()


def answered(at: float = 9.0, gate: Gate = Gate.PASS, *, told: bool = True) -> Ledger:
    """Return a ledger of one event, "a", due at 10.0, whose verdict was heard, and its gate command if told."""
    ledger = asked("a")
    ledger.hear_verdict(text("a", 1, gate), at)
    if told:
        ledger.hear_gate(command("a", gate), at)
    return ledger


def tell(ledger: Ledger, way: Way, gate: Gate, at: float = 9.1) -> Findings:
    """Have the gate of one way hear something about "a"."""
    if way is Way.MQTT:
        ledger.hear_gate(command("a", gate), at)
    else:
        ledger.hear_nodes("a", gate, at, way)
    return ledger.findings()


NODES = (Way.TAGS, Way.PLC)


def test_ledger_finds_nothing_wrong_with_a_promise_that_was_kept() -> None:
    """Each event once, in order, in time; a repeated text is the same answer."""
    ledger = asked("a", "b")
    for event_id, seq in (("a", 1), ("b", 2)):
        ledger.hear_verdict(text(event_id, seq), 9.0)
        ledger.hear_gate(command(event_id, seq=seq), 9.0)
        ledger.hear_nodes(event_id, Gate.PASS, 9.0)
    findings = ledger.findings()
    assert (findings.broken(), findings.in_time, findings.decisions) == ([], 1.0, {"OK": 2})


def test_ledger_sees_silence_and_contradiction() -> None:
    """An event without a verdict is lost; one with two texts was contradicted."""
    ledger = asked("silent", "twice")
    same = text("twice", 1)
    ledger.hear_verdict(same, 9.0)
    ledger.hear_verdict(same, 9.5)
    assert ledger.findings().contradictory == 0
    ledger.hear_verdict(text("twice", 2, Gate.REJECT), 9.6)
    assert ledger.findings().broken() == ["lost 1", "contradictory 1", "gate silent 1 (twice)"]
    assert ledger.unanswered() == ["silent"]


def test_ledger_sees_a_gate_that_is_opened_too_late() -> None:
    """PASS after the deadline counts, REJECT does not; a frozen broker is told apart."""
    ledger = asked("a", "b")
    ledger.hear_gate(command("a", Gate.REJECT), 11.0)
    assert ledger.findings().late_passes == ()
    ledger.freeze_broker(frozen=True)
    ledger.hear_gate(command("a", Gate.REJECT), 11.0)
    ledger.hear_gate(command("a"), 11.0)
    ledger.freeze_broker(frozen=False)
    assert (ledger.findings().late_passes, ledger.findings().held_up) == ((), 1)
    ledger.hear_gate(command("a"), 10.25)
    ledger.hear_nodes("b", Gate.PASS, 10.5)
    ledger.hear_nodes("b", Gate.PASS, 10.02)
    assert ledger.findings().late_passes == ("mqtt 250 ms", "opc ua 500 ms")
    assert ledger.findings().just_late == 1


def test_ledger_sees_numbers_that_are_used_twice_or_fall_back() -> None:
    """`seq` rises with every new verdict; an answer that had to be asked for again may come out of turn."""
    ledger = asked("a", "b", "c")
    ledger.ask("c", 10.0)
    ledger.hear_verdict(text("b", 5), 9.0)
    ledger.hear_verdict(text("c", 2), 9.0)
    assert ledger.findings().seq_back == 0
    ledger.hear_verdict(text("a", 5), 9.0)
    findings = ledger.findings()
    assert (findings.seq_twice, findings.seq_back, findings.asked_again) == (1, 1, 1)


def test_ledger_tells_what_is_new_since_before() -> None:
    """One drill is not blamed for another."""
    ledger = asked("a", "b")
    before = ledger.findings()
    ledger.hear_verdict(text("a", 1), 10.1)
    ledger.hear_verdict(text("b", 2), 9.0)
    ledger.hear_gate(command("b", seq=2), 9.0)
    after = ledger.findings()
    assert before.broken() == ["lost 2"]
    assert after.in_time == 0.5
    assert not after.broken()


def test_ledger_ignores_what_it_did_not_ask_and_counts_what_it_cannot_read() -> None:
    """Strangers' verdicts are none of its business, rubbish is counted."""
    ledger = asked("a")
    ledger.hear_verdict(text("stranger", 1), 9.0)
    ledger.hear_verdict(b"{", 9.0)
    ledger.hear_gate(b"", 9.0)
    ledger.hear_gate(command("stranger", Gate.REJECT), 9.0)
    assert ledger.findings().broken() == ["lost 1", "unreadable 2"]
    assert Verdict.model_validate_json(text("a", 1)).event_id in ledger.unanswered()


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("decision", [Decision.DAMAGED, Decision.ERROR])
def test_ledger_sees_a_gate_that_is_opened_for_a_part_not_judged_ok(way: Way, decision: Decision) -> None:
    """PASS on any way for a verdict DAMAGED or ERROR breaks the promise, whatever else that way was told."""
    ledger = asked("a")
    said = verdict("a", gate=Gate.REJECT).model_copy(update={"decision": decision})
    ledger.hear_verdict(said.to_json(), 9.0)
    ledger.hear_gate(GateCommand.of(said).to_json(), 9.0)
    assert ledger.findings().kept
    assert tell(ledger, way, Gate.PASS).gate_contradictory == (f"{way} PASS for {decision}, a",)
    assert ledger.findings().broken() == [f"gate contradictory 1 ({way} PASS for {decision}, a)"]


def test_ledger_sees_a_gate_that_is_opened_before_the_part_is_damaged() -> None:
    """A command may be heard before its verdict: it is compared when both are there."""
    ledger = asked("a")
    ledger.hear_nodes("a", Gate.PASS, 8.9)
    assert ledger.findings().gate_contradictory == ()
    ledger.hear_verdict(text("a", 1, Gate.REJECT), 9.0)
    assert ledger.findings().gate_contradictory == ("opc ua PASS for DAMAGED, a",)


@pytest.mark.parametrize("way", Way)
def test_ledger_sees_a_gate_that_is_opened_for_a_part_nobody_asked_about(way: Way) -> None:
    """Of an invented part nobody has judged anything."""
    ledger = Ledger()
    found = tell(ledger, way, Gate.PASS)
    assert found.gate_contradictory == (f"{way} PASS for 'a' that nobody asked about",)
    assert not found.kept


def test_ledger_sees_two_commands_for_one_event() -> None:
    """Two values on the gate topic contradict each other, with and without a verdict; a repeat does not."""
    assert tell(answered(), Way.MQTT, Gate.PASS).kept
    assert tell(answered(), Way.MQTT, Gate.REJECT).gate_contradictory == ("mqtt REJECT for OK, a",)
    ledger = asked("a")
    tell(ledger, Way.MQTT, Gate.PASS)
    assert tell(ledger, Way.MQTT, Gate.REJECT, 9.2).gate_contradictory == ("mqtt PASS, then REJECT, a",)
    assert not ledger.findings().kept


@pytest.mark.parametrize("way", NODES)
def test_ledger_lets_tags_take_back_what_would_be_late(way: Way) -> None:
    """Contract section 8: Reject instead of a late PASS is right; with time left it is wrong, so is the way back."""
    ledger = answered()
    tell(ledger, way, Gate.PASS)
    assert tell(ledger, way, Gate.REJECT, 9.9).kept
    assert tell(answered(), way, Gate.REJECT, 9.9).kept
    assert tell(answered(), way, Gate.REJECT, 9.7).gate_contradictory == (f"{way} REJECT for OK, a",)
    ledger = answered()
    tell(ledger, way, Gate.REJECT, 9.9)
    assert tell(ledger, way, Gate.PASS, 9.95).gate_contradictory == (f"{way} REJECT, then PASS, a",)


def test_ledger_never_excuses_a_reject_on_the_gate_topic_for_a_part_that_is_ok() -> None:
    """A late PASS is not said there at all."""
    ledger = answered(9.9, told=False)
    assert ledger.findings().kept
    assert tell(ledger, Way.MQTT, Gate.REJECT, 9.9).gate_contradictory == ("mqtt REJECT for OK, a",)


def test_ledger_sees_a_command_for_another_place_on_the_belt() -> None:
    """The command is the short form of the verdict, trigger and part included: by these a gate matches it."""
    ledger = answered(told=False)
    other = GateCommand.of(verdict("a").model_copy(update={"trigger_id": 8}))
    ledger.hear_gate(other.to_json(), 9.0)
    assert ledger.findings().gate_contradictory == ("mqtt PASS in other words than the verdict's, a",)


@pytest.mark.parametrize(
    ("gate", "at", "silent"),
    [
        (Gate.PASS, 9.7, ("a",)),
        (Gate.PASS, 9.8, ()),
        (Gate.REJECT, 9.9, ("a",)),
        (Gate.REJECT, 10.1, ()),
    ],
)
def test_ledger_sees_a_gate_topic_that_is_silent(gate: Gate, at: float, silent: tuple[str, ...]) -> None:
    """A verdict in time without a command breaks the promise, tags or not; a PASS that is near it may be kept back."""
    ledger = answered(at, gate, told=False)
    ledger.hear_nodes("a", gate, at)
    found = ledger.findings()
    assert (found.gate_silent, ledger.silent(), found.kept) == (silent, list(silent), not silent)
    ledger.hear_gate(command("a", gate), at)
    assert ledger.findings().kept


@pytest.mark.parametrize(
    ("began", "ended", "excused"), [(5.0, 7.9, 0), (5.0, 8.1, 1), (9.9, 12.0, 1), (10.1, 12.0, 0), (9.0, None, 1)]
)
def test_ledger_counts_apart_what_an_outage_may_have_swallowed(began: float, ended: float | None, excused: int) -> None:
    """Only an outage within a second of the verdict, 9.0, is an excuse for the command."""
    ledger = answered(told=False)
    outage = ledger.begin_outage(began)
    if ended is not None:
        outage.ended = ended
    found = ledger.findings()
    assert (found.silent_in_outage, len(found.gate_silent), found.kept) == (excused, 1 - excused, bool(excused))


def test_ledger_names_only_gates_that_were_not_wrong_before() -> None:
    """One drill is not blamed for another's gate."""
    ledger = asked("a", "b", "c")
    for number, event_id in enumerate("abc", start=1):
        ledger.hear_verdict(text(event_id, number, Gate.REJECT), 9.0)
    for event_id in "bc":
        ledger.hear_gate(command(event_id, Gate.REJECT, seq=2 + (event_id == "c")), 9.0)
    ledger.hear_nodes("c", Gate.PASS, 9.0)
    before = ledger.findings()
    ledger.hear_nodes("b", Gate.PASS, 9.0)
    assert before.broken() == ["gate contradictory 1 (opc ua PASS for DAMAGED, c)", "gate silent 1 (a)"]
    assert ledger.findings().broken(before) == ["gate contradictory 1 (opc ua PASS for DAMAGED, b)"]


def test_ledger_tells_apart_who_was_late_although_nothing_was_broken() -> None:
    """An answer that is late while something is broken, or up to 5 s after, is no news."""
    ledger = answered(10.2)
    assert ledger.findings().late_alone == 1
    outage = ledger.begin_outage(2.0)
    outage.ended = 4.9
    assert ledger.findings().late_alone == 1
    outage.ended = 5.1
    assert ledger.findings().late_alone == 0
    assert answered(10.04).findings().late_alone == 0
