"""Which texts belong to a PLC's trigger where the PLC's server has no queue that is long enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.plc_texts import NAMES, RESOLUTIONS, STEPS_S, Line


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S, st.integers(0, 3))),
    st.booleans(),
)
def test_text_of_which_only_the_newest_is_told_is_its_own_or_unknown(
    parts: list[tuple[str, float, float, int]], looks: bool
) -> None:
    """A server without a queue: what was overwritten is dropped in silence, and exact stamps do not show that."""
    line, expected, found = Line(), [], list[str | None]()
    line.texts.lose("part_id")

    def tell() -> None:
        line.waiting = line.waiting[-1:]
        found.extend(line.judge(line.publish(), look=looks))

    for number, (name, before_s, between_s, when) in enumerate(parts, start=1):
        line.write(name, line.now_s + before_s)
        if when == 1:
            tell()
        line.give(number, line.now_s + between_s)
        if when == 2:
            tell()
        expected.append(name)
    tell()
    assert all(text in {None, own} for text, own in zip(found, expected, strict=True))


@given(RESOLUTIONS, st.booleans(), st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S)))
def test_line_that_waits_needs_no_queue(
    resolution_s: float, looks_stamped: bool, parts: list[tuple[str, float, float]]
) -> None:
    """It leaves its texts alone; the status says that the PLC's queue is short."""
    line = Line(resolution_s, looks_stamped=looks_stamped)
    line.texts.lose("part_id")
    for number, (name, before_s, between_s) in enumerate(parts, start=1):
        line.write(name, line.now_s + before_s)
        line.give(number, line.now_s + between_s)
        assert line.service() == [name]
    assert line.texts.trouble == "part_id is not told in full: the PLC's queue is too short"
