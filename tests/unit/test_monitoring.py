"""Health and metrics: what is answered, how soon, and that no label is a stranger's."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient

from internal.monitoring.health import Health
from internal.monitoring.metrics import LoopLag, Metrics, metrics_app

Handler = Callable[[web.Request], Awaitable[web.Response]]
Ask = Callable[[Handler], Awaitable[tuple[int, Any]]]


async def fine() -> str | None:
    return None


async def behind() -> str | None:
    return "the tailer is 12 events behind"


async def broken() -> str | None:
    raise ConnectionError("connect to db.internal as parley:hunter2")


async def hangs() -> str | None:
    await asyncio.Event().wait()
    return None


@pytest.fixture
def ask(aiohttp_client: AiohttpClient) -> Ask:
    """Ask a handler over HTTP; the value is the status and the decoded answer."""

    async def over_http(handler: Handler) -> tuple[int, Any]:
        app = web.Application()
        app.router.add_get("/", handler)
        client = await aiohttp_client(app)
        response = await client.get("/")
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, msgspec.json.decode(await response.read())

    return over_http


async def test_ready_when_all_is_well(ask: Ask) -> None:
    health = Health({"database": fine}, {"redis": fine}, lag=lambda: 0.0)

    assert await ask(health.ready) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "redis": "ok"}},
    )


async def test_an_optional_check_only_degrades(ask: Ask) -> None:
    health = Health({"database": fine}, {"redis": broken}, lag=lambda: 0.0)

    assert await ask(health.ready) == (
        200,
        {"status": "degraded", "checks": {"database": "ok", "redis": "failed (ConnectionError)"}},
    )


async def test_a_required_check_makes_unavailable_with_its_reason(ask: Ask) -> None:
    health = Health({"database": hangs, "tailer": behind}, lag=lambda: 0.0, timeout_s=0.01)

    assert await ask(health.ready) == (
        503,
        {
            "status": "unavailable",
            "checks": {
                "database": "no answer within 0.01 s",
                "tailer": "the tailer is 12 events behind",
            },
        },
    )


async def test_many_who_ask_at_once_share_one_run_and_one_who_leaves_ends_it_for_nobody() -> None:
    runs: list[None] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def counted() -> str | None:
        runs.append(None)
        begun.set()
        await go_on.wait()
        return None

    health = Health({"database": counted}, lag=lambda: 0.0)
    leaver = asyncio.create_task(health.readiness())
    others = [asyncio.create_task(health.readiness()) for _ in range(20)]
    await begun.wait()
    leaver.cancel()
    go_on.set()

    assert {(await other).status for other in others} == {"ready"}
    assert (await health.readiness()).status == "ready"
    assert len(runs) == 1


async def test_an_old_answer_is_not_given_again() -> None:
    answers = iter(["first", "second"])

    async def changing() -> str | None:
        return next(answers)

    health = Health({"database": changing}, lag=lambda: 0.0, fresh_for_s=-1.0)

    assert (await health.readiness()).checks == {"database": "first"}
    assert (await health.readiness()).checks == {"database": "second"}


async def test_draining_is_not_ready_and_still_live(ask: Ask) -> None:
    health = Health({"database": fine}, lag=lambda: 0.0)
    health.drain()

    assert (await ask(health.ready))[0] == 503
    assert await ask(health.live) == (200, {"status": "live", "loop_lag_s": 0.0})


async def test_a_stuck_loop_is_not_live(ask: Ask) -> None:
    health = Health({}, lag=lambda: 1.25)

    assert await ask(health.live) == (503, {"status": "stuck", "loop_lag_s": 1.25})


async def test_the_loop_is_watched() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics, period_s=0.001)
    assert lag.current() == 0.0

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await lag.sample()

    assert 0.0 <= lag.current() < 5.0
    assert metrics.registry.get_sample_value("parley_loop_lag_distribution_seconds_count")


async def test_the_metrics_page(aiohttp_client: AiohttpClient) -> None:
    metrics = Metrics()
    metrics.observe_request(method="GET", route="/guilds/{guild_id}", status=200, seconds=0.004)
    metrics.observe_request(method="BREW\n", route=None, status=404, seconds=0.0)
    metrics.count_from("parley_gateway_deliveries", "Events handed on.", lambda: 1000)
    metrics.resumes.labels("resumed").inc()
    client = await aiohttp_client(metrics_app(metrics, Health({}, lag=lambda: 0.0)))

    response = await client.get("/metrics")
    text = await response.text()

    assert response.content_type == "text/plain"
    assert (
        'parley_http_requests_total{method="GET",route="/guilds/{guild_id}",status="200"} 1.0'
        in text
    )
    assert 'parley_http_requests_total{method="other",route="other",status="404"} 1.0' in text
    assert "parley_gateway_deliveries_total 1000.0" in text
    assert 'parley_gateway_resumes_total{outcome="resumed"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert (await client.get("/")).status == 404


async def test_probes_are_answered_beside_the_metrics(aiohttp_client: AiohttpClient) -> None:
    """Also when there is no room for one more connection where clients come in."""
    health = Health({}, lag=lambda: 0.0)
    client = await aiohttp_client(metrics_app(Metrics(), health))
    assert (await client.get("/live")).status == 200
    assert (await client.get("/ready")).status == 200
    health.drain()
    assert (await client.get("/live")).status == 200
    assert (await client.get("/ready")).status == 503


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.log_gaps.inc()

    assert first.registry.get_sample_value("parley_gateway_log_gap_total") == 1.0
    assert second.registry.get_sample_value("parley_gateway_log_gap_total") == 0.0
