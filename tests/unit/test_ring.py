"""The ring: bounded, contiguous, and as forgetful as the log."""

from internal.eventlog.ring import Ring
from tests.support.entries import entry


def ring(**bounds: int) -> Ring:
    return Ring(**{"max_entries": 100, "max_bytes": 1 << 20, **bounds})


def positions(held: Ring, pos: int, upto: int | None = None) -> list[int] | None:
    found = held.after(pos, upto)
    return None if found is None else [e.pos for e in found]


def test_an_empty_ring_reaches_back_to_nothing() -> None:
    held = ring()
    assert held.first is None
    assert held.after(0) is None
    assert len(held) == 0


def test_what_lies_behind_a_position_comes_in_order_from_either_end() -> None:
    held = ring()
    for pos in range(5, 25):
        held.append(entry(pos))
    assert held.first == 5
    assert positions(held, 4) == list(range(5, 25))
    assert positions(held, 22) == [23, 24]
    assert positions(held, 5, 7) == [6, 7]
    assert positions(held, 24) == []
    assert positions(held, 24, 24) == []
    assert positions(held, 30) == []
    assert positions(held, 3) is None


def test_the_oldest_leave_when_there_are_too_many() -> None:
    held = ring(max_entries=3)
    for pos in range(1, 6):
        held.append(entry(pos, subject=7))
    assert positions(held, 2) == [3, 4, 5]
    assert positions(held, 1) is None


def test_the_oldest_leave_when_they_hold_too_much() -> None:
    held = ring(max_bytes=5000)
    for pos in range(1, 6):
        held.append(entry(pos, payload=b"x" * 1000))
    assert positions(held, 3) == [4, 5]


def test_a_gap_starts_the_ring_anew() -> None:
    held = ring()
    held.append(entry(1, subject=7))
    held.append(entry(5))
    assert held.first == 5
    assert positions(held, 1) is None


def test_a_retraction_blanks_what_was_said_before() -> None:
    held = ring()
    said, other = entry(1, subject=7), entry(2, subject=8)
    held.append(said)
    held.append(other)
    held.append(entry(3, "MESSAGE_DELETE", retracts=[7, 99]))
    assert said.payload is None
    assert said.frame is None
    assert other.payload == b"{}"


def test_a_revision_replaces_what_was_said_before_unless_it_was_taken_back() -> None:
    held = ring()
    said, gone = entry(1, subject=7), entry(2, subject=8, payload=None)
    held.append(said)
    held.append(gone)
    held.append(entry(3, "MESSAGE_UPDATE", subject=7, revises=7, payload=b'{"new":1}'))
    held.append(entry(4, "MESSAGE_UPDATE", subject=8, revises=8, payload=b'{"new":2}'))
    assert said.payload == b'{"new":1}'
    assert gone.payload is None


def test_a_deleted_channel_takes_its_content_with_it() -> None:
    held = ring()
    said, other, structure = (
        entry(1, subject=7, channel=5),
        entry(2, subject=8, channel=6),
        entry(3, "CHANNEL_UPDATE", channel=5),
    )
    for each in (said, other, structure):
        held.append(each)
    held.append(entry(4, "CHANNEL_DELETE", retracts_channels=[5]))
    assert [e.payload for e in (said, other, structure)] == [None, b"{}", b"{}"]


def test_a_span_near_the_newest_is_cut_from_that_end() -> None:
    held = ring()
    for pos in range(1, 21):
        held.append(entry(pos))
    assert positions(held, 15, 18) == [16, 17, 18]
    assert positions(held, 18, 17) == []
    assert positions(held, 19, 40) == [20]


def test_what_was_blank_already_stays_so_when_its_channel_goes() -> None:
    held = ring()
    first, second = entry(1, subject=7, channel=5), entry(2, subject=7, channel=5)
    held.append(first)
    held.append(second)
    held.append(entry(3, "CHANNEL_DELETE", retracts_channels=[5]))
    held.append(entry(4, "CHANNEL_DELETE", retracts_channels=[5]))
    assert (first.payload, second.payload) == (None, None)


def test_what_left_is_not_looked_for_any_more() -> None:
    held = ring(max_entries=1)
    first = entry(1, subject=7)
    held.append(first)
    held.append(entry(2, subject=8))
    held.append(entry(3, "MESSAGE_DELETE", retracts=[7]))
    assert first.payload == b"{}"
