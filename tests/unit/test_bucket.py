"""Token buckets: so much at once, so much over time, and bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal.errors import SlowDown
from internal.utils.bucket import LocalLimiter, Rate, take_or_refuse
from tests.support.clock import StandingClock

THREE = Rate(3, 0.5)


async def test_a_burst_then_a_drip() -> None:
    clock = StandingClock()
    limiter = LocalLimiter(clock)
    burst = [await limiter.take("ada", THREE) for _ in range(4)]
    assert [one.is_allowed for one in burst] == [True, True, True, False]
    assert [one.remaining for one in burst] == [2, 1, 0, 0]
    assert [one.reset_after for one in burst] == [2, 4, 6, 6]
    assert burst[3].retry_after == 2
    assert burst[0].limit == 3
    clock.pass_by(seconds=1.9)
    assert not (await limiter.take("ada", THREE)).is_allowed
    clock.pass_by(seconds=0.1)
    assert (await limiter.take("ada", THREE)).is_allowed
    assert not (await limiter.take("ada", THREE)).is_allowed
    clock.pass_by(seconds=3600)
    full = await limiter.take("ada", THREE)
    assert full.remaining == 2, "no more than the bucket holds"


async def test_each_key_has_its_bucket() -> None:
    limiter = LocalLimiter(StandingClock())
    for _ in range(3):
        await limiter.take("ada", THREE)
    assert not (await limiter.take("ada", THREE)).is_allowed
    assert (await limiter.take("bob", THREE)).is_allowed


async def test_the_scale_multiplies_both() -> None:
    clock = StandingClock()
    limiter = LocalLimiter(clock, scale=2)
    assert [(await limiter.take("ada", THREE)).is_allowed for _ in range(7)] == [True] * 6 + [False]
    clock.pass_by(seconds=1)
    assert (await limiter.take("ada", THREE)).is_allowed
    tiny = LocalLimiter(clock, scale=0.01)
    assert (await tiny.take("ada", THREE)).is_allowed, "something is always allowed"


def test_a_scaled_rate_guards_what_it_guarded() -> None:
    guarded = Rate(3, 0.5, guards_secrets=True).scaled(2)

    assert guarded == Rate(6, 1, guards_secrets=True)


async def test_memory_is_bounded_and_the_idle_go_first() -> None:
    limiter = LocalLimiter(StandingClock(), most=2)
    for key in ("ada", "ada", "ada", "bob", "ada", "eve"):
        await limiter.take(key, THREE)
    assert (await limiter.take("ada", THREE)).is_allowed is False
    assert (await limiter.take("bob", THREE)).remaining == 2, "forgotten, so full again"


async def test_refused_with_the_time_to_wait() -> None:
    limiter = LocalLimiter(StandingClock())
    for _ in range(3):
        await take_or_refuse(limiter, "ada", THREE)
    with pytest.raises(SlowDown) as refusal:
        await take_or_refuse(limiter, "ada", THREE)
    assert refusal.value.retry_after == 2


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60))
async def test_never_more_than_the_rate(pauses: list[float]) -> None:
    clock = StandingClock()
    limiter = LocalLimiter(clock)
    began, allowed = clock.monotonic(), 0
    for pause in pauses:
        clock.pass_by(seconds=pause)
        allowed += (await limiter.take("ada", THREE)).is_allowed
        assert allowed <= 3 + (clock.monotonic() - began) * 0.5 + 1e-6
