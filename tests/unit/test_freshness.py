"""Which copies a node may trust: none that an event has made stale, whatever a cache says."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from internal.eventlog.freshness import AsOf, Copy, FreshCache, Freshness, SharedCache
from internal.eventlog.model import Entry
from internal.utils.json import decoder, encode

ADA, BOB = 1, 2
EPOCH = 7


def entry(pos: int, *subjects: int) -> Entry:
    row = dict.fromkeys(
        (
            "guild_id",
            "channel_id",
            "parent_id",
            "reshapes",
            "subject",
            "retracts",
            "retracts_channels",
            "revises",
        )
    )
    return Entry(
        {
            **row,
            "pos": pos,
            "outbox_id": pos,
            "type": "USER_UPDATE",
            "users": list(subjects),
            "payload": None,
            "created_at": datetime(2030, 1, 1, tzinfo=UTC),
        }
    )


def freshness(start: int = 10, **more: int) -> Freshness:
    return Freshness(AsOf(start, EPOCH), lambda entry: entry.users or (), **more)


class Shelf(SharedCache):
    """A shared cache in which a test may put anything."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    @override
    async def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    @override
    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        assert 0 < ttl_s <= 30
        self.kept[key] = value


def cache_on(shelf: Shelf, node: Freshness) -> FreshCache[str]:
    return FreshCache("word", decoder(Copy[str]), node, shelf)


def test_what_was_read_before_this_node_began_is_not_trusted() -> None:
    node = freshness(start=10)

    assert not node.trusts(ADA, 9)
    assert node.trusts(ADA, 10)
    assert node.trusts(ADA, 11), "read by a node that is ahead"


def test_an_event_makes_the_copies_before_it_stale_and_no_others() -> None:
    node = freshness(start=10)
    node.observe([entry(11), entry(12, ADA), entry(13)])

    assert not node.trusts(ADA, 11)
    assert node.trusts(ADA, 12)
    assert node.trusts(BOB, 10)


def test_a_forgotten_change_takes_all_older_copies_with_it() -> None:
    node = freshness(start=10, most=2)
    node.observe([entry(11, 1), entry(12, 2), entry(13, 3)])

    assert not node.trusts(1, 10), "its change is forgotten"
    assert not node.trusts(4, 10), "nobody knows any more whether it was this one"
    assert node.trusts(4, 11)
    assert not node.trusts(2, 11)


def test_a_hole_in_the_log_may_have_changed_anything() -> None:
    node = freshness(start=10)
    node.observe([entry(11, ADA)])
    node.observe([entry(20)])

    assert not node.trusts(ADA, 18)
    assert not node.trusts(BOB, 18)
    assert node.trusts(BOB, 19)


def test_a_change_of_this_node_counts_before_it_has_a_position() -> None:
    node = freshness(start=10)
    since = node.pos
    node.observe([entry(11)])
    node.expect(ADA, since)
    assert not node.trusts(ADA, 11)

    node.observe([entry(12, ADA)])
    assert not node.trusts(ADA, 11)
    assert node.trusts(ADA, 12)


def test_a_change_that_had_its_position_already_is_not_waited_for() -> None:
    node = freshness(start=10)
    since = node.pos
    node.observe([entry(11, ADA)])
    node.expect(ADA, since)

    assert node.trusts(ADA, 11)


@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.integers(1, 3),
    st.integers(0, 60),
    st.data(),
)
def test_no_stale_copy_is_ever_trusted(
    changes: list[int], most: int, start: int, chance: st.DataObject
) -> None:
    """Event n changes subject `changes[n - 1]`; a node begins somewhere and reads in runs."""
    start = min(start, len(changes))
    node = freshness(start=start, most=most)
    pos = start
    while pos < len(changes):
        run = chance.draw(st.integers(1, len(changes) - pos))
        node.observe([entry(at + 1, changes[at]) for at in range(pos, pos + run)])
        pos += run
        for subject in range(5):
            for read_at in range(len(changes) + 1):
                changed_since = subject in changes[read_at:pos]
                assert not (node.trusts(subject, read_at) and changed_since)


async def test_a_copy_is_found_by_the_other_node_until_an_event_changes_it() -> None:
    shelf, one, two = Shelf(), freshness(), freshness()
    await cache_on(shelf, one).keep(ADA, AsOf(10, EPOCH), "hello")
    assert await cache_on(shelf, two).find(ADA, ADA) == "hello"

    two.observe([entry(11, ADA)])
    assert await cache_on(shelf, two).find(ADA, ADA) is None
    assert await cache_on(shelf, one).find(ADA, ADA) == "hello", "it has not heard yet"


async def test_a_late_writer_does_not_bring_back_what_was_changed() -> None:
    """It read before the change and wrote after everybody had heard of it."""
    shelf, one = Shelf(), freshness()
    one.observe([entry(11, ADA)])
    await cache_on(shelf, one).keep(ADA, AsOf(10, EPOCH), "old")

    assert await cache_on(shelf, one).find(ADA, ADA) is None


async def test_another_epoch_is_another_cache() -> None:
    shelf, node = Shelf(), freshness()
    restored = Freshness(AsOf(10, EPOCH + 1), lambda entry: entry.users or ())
    await cache_on(shelf, node).keep(ADA, AsOf(10, EPOCH), "before")
    await cache_on(shelf, restored).keep(BOB, AsOf(10, EPOCH), "read before the restore")

    assert await cache_on(shelf, restored).find(ADA, ADA) is None
    assert await cache_on(shelf, restored).find(BOB, BOB) is None


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"null", b"[]", b'{"pos":"x","value":"y"}', b'{"pos":99}', b"[" * 9999],
)
async def test_what_can_not_be_read_is_not_there(raw: bytes) -> None:
    shelf, node = Shelf(), freshness()
    cache = cache_on(shelf, node)
    await cache.keep(ADA, AsOf(10, EPOCH), "hello")
    (key,) = shelf.kept
    shelf.kept[key] = raw

    assert await cache.find(ADA, ADA) is None
    shelf.kept[key] = encode(Copy(10, "hello"))
    assert await cache.find(ADA, ADA) == "hello"
