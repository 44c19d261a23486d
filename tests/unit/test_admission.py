"""Who is inspected next, and who is turned away."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import IntakeOrder, IntakeSettings
from service.admission import Admission
from tests.support.clock import HandClock


class Door:
    """An admission with one place inside, and what became of everybody at it."""

    def __init__(self, order: IntakeOrder, *, capacity: int = 4, places: int = 1) -> None:
        self.clock = HandClock()
        self.admission = Admission(IntakeSettings(capacity=capacity, order=order), clock=self.clock, places=places)
        self.inside: list[str] = []
        self.turned_away: list[str] = []
        self._entered: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, name: str, *, decide_by: float = 1e9, promised: bool = False) -> None:
        async def enter() -> None:
            entered = await self.admission.enter(decide_by, promised=promised)
            if entered is None:
                self.turned_away.append(name)
            else:
                self.inside.append(name)
                self._entered[name] = entered

        self._tasks.append(asyncio.create_task(enter()))
        await settle()

    async def leave(self, *, after_s: float = 0.0, in_time: bool = True) -> None:
        self.clock.seconds += after_s
        self.admission.leave(self._entered.pop(self.inside.pop(0)), in_time=in_time)
        await settle()

    async def be_busy(self) -> None:
        """Have one part inspected, which takes a second, and the next one inside."""
        await self.come("first")
        await self.leave(after_s=1.0)
        await self.come("inside")


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_admission_takes_no_inspection_for_slow_because_the_process_stood_still() -> None:
    """Nor lets fewer in: the next part that has to wait has time enough, as it had before."""
    door = Door(IntakeOrder.OLDEST, places=2)
    for name in "ab":
        await door.come(name)
    door.clock.seconds += 2.5
    door.admission.stood_still(2.5)
    for _ in range(2):
        await door.leave(after_s=0.01, in_time=False)
    for name in "cd":
        await door.come(name)
    assert door.inside == ["c", "d"]
    await door.come("e", decide_by=door.clock.seconds + 0.5)
    assert door.turned_away == []
    await door.leave(after_s=0.01)
    assert door.inside == ["d", "e"]


async def test_admission_takes_an_inspection_for_as_slow_as_it_was_since_the_process_stood_still() -> None:
    """A standstill that was over when it began is no part of it."""
    door = Door(IntakeOrder.OLDEST)
    door.admission.stood_still(2.5)
    door.clock.seconds += 1.0
    await door.come("slow")
    await door.leave(after_s=1.0)
    await door.come("inside")
    await door.come("hopeless", decide_by=door.clock.seconds + 1.5)
    assert door.turned_away == ["hopeless"]


async def test_admission_oldest_first_turns_the_newest_away() -> None:
    """Parts go in as they came; one too many is told at once."""
    door = Door(IntakeOrder.OLDEST)
    for name in "abcdef":
        await door.come(name)
    assert (door.inside, door.turned_away) == (["a"], ["e", "f"])
    for expected in "bcd":
        await door.leave()
        assert door.inside == [expected]
    await door.leave()
    assert door.admission.in_work == 0


async def test_admission_newest_first_pushes_the_oldest_out() -> None:
    """The newest goes next; one too many costs the one that has waited longest."""
    door = Door(IntakeOrder.NEWEST)
    for name in "abcdef":
        await door.come(name)
    assert (door.inside, door.turned_away) == (["a"], ["b", "c"])
    for expected in "fed":
        await door.leave()
        assert door.inside == [expected]


@pytest.mark.parametrize("order", IntakeOrder)
async def test_admission_turns_away_who_cannot_make_it(order: IntakeOrder) -> None:
    """Whoever would be judged too late, by what inspections take, does not wait for that in vain."""
    door = Door(order)
    await door.be_busy()
    await door.come("hopeless", decide_by=door.clock.seconds + 1.5)
    await door.come("patient", decide_by=door.clock.seconds + 60)
    assert door.turned_away == ["hopeless"]
    await door.leave(after_s=1.0)
    assert door.inside == ["patient"]


async def test_admission_lets_in_who_just_makes_it() -> None:
    """Nobody is waited for any more where the place is free."""
    door = Door(IntakeOrder.OLDEST)
    await door.be_busy()
    await door.come("just", decide_by=door.clock.seconds + 2.11)
    await door.leave(after_s=1.0)
    assert (door.inside, door.turned_away) == (["just"], [])


async def test_admission_counts_on_inspections_side_by_side() -> None:
    """With two places a queue moves on twice as fast."""
    door = Door(IntakeOrder.OLDEST, places=2)
    for name in "ab":
        await door.come(name)
    await door.leave(after_s=1.0)
    await door.leave()
    for name in "cdef":
        await door.come(name, decide_by=door.clock.seconds + 2.11)
    assert (door.inside, door.turned_away) == (["c", "d"], [])


async def test_admission_newest_first_gives_up_who_is_pushed_back_too_far() -> None:
    """Newer parts that go first may use up the time of one that waits; it is told then, not at its deadline."""
    door = Door(IntakeOrder.NEWEST)
    await door.be_busy()
    await door.come("old", decide_by=door.clock.seconds + 2.5)
    assert door.turned_away == []
    await door.come("new", decide_by=door.clock.seconds + 2.5)
    assert door.turned_away == ["old"]


async def test_admission_starves_nobody_after_a_slow_inspection() -> None:
    """However slow inspections were, whoever finds a free place is inspected: the estimate corrects itself."""
    door = Door(IntakeOrder.OLDEST)
    await door.come("slow")
    await door.leave(after_s=3600.0)
    for number in range(40):
        await door.come(f"p{number}", decide_by=door.clock.seconds + 0.5)
        assert door.inside == [f"p{number}"]
        await door.leave(after_s=0.01)
    await door.come("x", decide_by=door.clock.seconds + 0.5)
    await door.come("y", decide_by=door.clock.seconds + 0.5)
    assert door.turned_away == []


async def test_admission_keeps_a_queue_short_enough_to_be_done_early() -> None:
    """Who waits must be expected to be done a good while before its time is up, and a free place goes to anybody."""
    door = Door(IntakeOrder.OLDEST)
    await door.come("first")
    await door.leave(after_s=0.2)
    await door.come("just", decide_by=door.clock.seconds + 0.21)
    await door.come("too close", decide_by=door.clock.seconds + 0.45)
    await door.come("in good time", decide_by=door.clock.seconds + 0.51)
    assert (door.inside, door.turned_away) == (["just"], ["too close"])


async def test_admission_wants_less_time_to_spare_of_a_short_deadline() -> None:
    """A quarter of what is left, where that is less than for a long one."""
    door = Door(IntakeOrder.OLDEST)
    await door.come("first")
    await door.leave(after_s=0.05)
    await door.come("inside")
    await door.come("too close", decide_by=door.clock.seconds + 0.13)
    await door.come("in good time", decide_by=door.clock.seconds + 0.14)
    assert door.turned_away == ["too close"]


@pytest.mark.parametrize("order", IntakeOrder)
async def test_admission_keeps_its_promise(order: IntakeOrder) -> None:
    """A trigger that was given while Ready was shown goes in, however full it is by then."""
    door = Door(order, capacity=2)
    await door.come("a")
    await door.come("b")
    await door.come("promised", decide_by=0.0, promised=True)
    await door.come("c")
    await door.come("d")  # by now it is the oldest that waits
    while door.inside:
        if door.inside == ["promised"]:
            break
        await door.leave(after_s=1.0)
    assert door.inside == ["promised"]


async def test_admission_lets_fewer_in_where_they_make_each_other_late() -> None:
    """Three at a time that are all late become one at a time; when that goes well, more are let in again."""
    door = Door(IntakeOrder.OLDEST, capacity=20, places=3)
    for number in range(8):
        await door.come(str(number))
    assert len(door.inside) == 3
    for _ in range(2):
        await door.leave(in_time=False)
    assert len(door.inside) == 1
    for _ in range(5):
        await door.leave(in_time=False)
        assert len(door.inside) <= 1
    for number in range(30):
        await door.come(f"good{number}")
        if number % 2:
            await door.leave()
    assert len(door.inside) >= 2


async def test_admission_lets_one_more_in_after_ten_good_ones_in_a_row() -> None:
    """One that is late begins the count anew, and so does each place that was won."""
    door = Door(IntakeOrder.OLDEST, capacity=100, places=3)
    for number in range(100):
        await door.come(str(number))
    for _ in range(2):
        await door.leave(in_time=False)
    for in_time, count, places in [(True, 9, 1), (False, 1, 1), (True, 9, 1), (True, 1, 2), (True, 9, 2), (True, 1, 3)]:
        for _ in range(count):
            await door.leave(in_time=in_time)
        assert len(door.inside) == places


async def test_admission_gives_away_the_place_of_who_is_gone() -> None:
    """A waiting event whose task is cancelled leaves no gap and no ghost."""
    door = Door(IntakeOrder.OLDEST)
    await door.come("a")
    await door.come("gone")
    await door.come("b")
    door._tasks[1].cancel()
    await settle()
    assert door.admission.in_work == 2
    await door.leave()
    assert door.inside == ["b"]
    await door.leave()
    assert door.admission.in_work == 0


async def test_admission_gives_away_the_place_of_who_was_let_in_and_is_gone() -> None:
    """Cancelled between the two: the place is the next one's, or it would be nobody's for ever."""
    door = Door(IntakeOrder.OLDEST)
    for name in ("a", "gone", "b"):
        await door.come(name)
    door.admission.leave(door._entered.pop(door.inside.pop()), in_time=True)
    door._tasks[1].cancel()
    await settle()
    assert door.inside == ["b"]


@given(
    order=st.sampled_from(IntakeOrder),
    capacity=st.integers(1, 6),
    places=st.integers(1, 4),
    steps=st.lists(st.one_of(st.floats(0.01, 5), st.sampled_from(["leave", "late"])), max_size=60),
)
def test_admission_answers_everybody_and_stays_bounded(
    order: IntakeOrder, capacity: int, places: int, steps: list[float | str]
) -> None:
    """Whatever comes and goes: never more than the capacity, and in the end everybody was let in or turned away."""

    async def play() -> None:
        door = Door(order, capacity=capacity, places=places)
        came = 0
        for step in steps:
            if isinstance(step, float):
                came += 1
                await door.come(str(came), decide_by=door.clock.seconds + step)
            elif door.inside:
                await door.leave(after_s=0.5, in_time=step == "leave")
            assert door.admission.in_work <= capacity
            assert len(door.inside) <= places
        left = 0
        while door.inside:
            await door.leave(after_s=0.5)
            left += 1
        assert door.admission.in_work == 0
        assert len(door._entered) == 0
        assert all(task.done() for task in door._tasks)

    asyncio.run(play())
