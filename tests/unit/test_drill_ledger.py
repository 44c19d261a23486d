"""The ledger of a drill: it must see every way in which the promise can be broken."""

from __future__ import annotations

from adapters.drill.ledger import Ledger
from schemas.messages import Gate, GateCommand, Verdict
from tests.support.mqtt import verdict


def asked(*event_ids: str) -> Ledger:
    ledger = Ledger()
    for event_id in event_ids:
        ledger.ask(event_id, 10.0)
    return ledger


def text(event_id: str, seq: int, gate: Gate = Gate.PASS) -> bytes:
    return verdict(event_id, seq=seq, gate=gate).to_json()


def command(event_id: str, gate: Gate = Gate.PASS) -> bytes:
    return GateCommand.of(verdict(event_id, gate=gate)).to_json()


def test_ledger_finds_nothing_wrong_with_a_promise_that_was_kept() -> None:
    """Each event once, in order, in time; a repeated text is the same answer."""
    ledger = asked("a", "b")
    for event_id, seq in (("a", 1), ("b", 2)):
        ledger.hear_verdict(text(event_id, seq), 9.0)
        ledger.hear_gate(command(event_id), 9.0)
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
    assert ledger.findings().broken() == ["lost 1", "contradictory 1"]
    assert ledger.unanswered() == ["silent"]


def test_ledger_sees_a_gate_that_is_opened_too_late() -> None:
    """PASS after the deadline counts, REJECT does not; a frozen broker is told apart."""
    ledger = asked("a", "b")
    ledger.hear_gate(command("a", Gate.REJECT), 11.0)
    assert ledger.findings().late_passes == ()
    ledger.freeze_broker(frozen=True)
    ledger.hear_gate(command("a"), 11.0)
    ledger.freeze_broker(frozen=False)
    assert (ledger.findings().late_passes, ledger.findings().held_up) == ((), 1)
    ledger.hear_gate(command("a"), 10.25)
    ledger.open_gate("b", 10.5, "opc ua")
    ledger.open_gate("b", 10.02, "opc ua")
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
    assert ledger.unreadable == 2
    assert Verdict.model_validate_json(text("a", 1)).event_id in ledger.unanswered()
