"""What the server counts and measures, in a registry of its own, and the page to scrape it."""

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from internal.monitoring.health import Health

# A method or a route that the server does not know is one label: strangers choose no labels.
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LAG_PERIOD_S = 0.25

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Every metric of the server. No label holds an id or anything else that a user chose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._http()
        self._gateway()
        self._event_log()
        self._nodes()
        self._load()
        self._process()

    def observe_request(
        self, *, method: str, route: str | None, status: int, seconds: float
    ) -> None:
        """Count a request. The route is its template, `/guilds/{guild_id}`; None is no route."""
        known = method if method in METHODS else OTHER
        labels = (known, route or OTHER, str(status))
        self.requests.labels(*labels).inc()
        self.request_seconds.labels(*labels).observe(seconds)

    def count_from(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Publish a count that is kept elsewhere, where counting must cost next to nothing."""
        self.registry.register(_Count(name, documentation, read))

    def _http(self) -> None:
        labels = ("method", "route", "status")
        self.requests = Counter(
            "parley_http_requests", "Requests answered.", labels, registry=self.registry
        )
        self.request_seconds = Histogram(
            "parley_http_request_seconds",
            "Time from a request to its answer.",
            labels,
            buckets=_LATENCIES,
            registry=self.registry,
        )

    def _gateway(self) -> None:
        self.connected_sockets = Gauge(
            "parley_gateway_sockets", "Open gateway sockets.", registry=self.registry
        )
        self.active_users = Gauge(
            "parley_active_users", "Users with an identified socket.", registry=self.registry
        )
        self.users_online = Gauge(
            "parley_users_online",
            "Users shown as online, on all nodes; the invisible are not.",
            registry=self.registry,
        )
        self.resumes = Counter(
            "parley_gateway_resumes",
            "Attempts to resume, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self.closes = Counter(
            "parley_gateway_closes",
            "Sockets closed, by close code.",
            ("code",),
            registry=self.registry,
        )
        self.slow_readers = Counter(
            "parley_gateway_slow_readers",
            "Sockets taken out of the live stream because they read too slowly.",
            registry=self.registry,
        )

    def _event_log(self) -> None:
        self.drain_age = Gauge(
            "parley_outbox_oldest_age_seconds",
            "Age of the oldest event without a position.",
            registry=self.registry,
        )
        self.tailer_lag = Gauge(
            "parley_tailer_lag_events",
            "Positions between the head of the log and what this process has delivered.",
            registry=self.registry,
        )
        self.log_gaps = Counter(
            "parley_gateway_log_gap",
            "Positions missing in the log; any is a fault.",
            registry=self.registry,
        )

    def _nodes(self) -> None:
        self.redis_failures = Counter(
            "parley_redis_failures",
            "Commands to Redis that failed or were not answered in time.",
            registry=self.registry,
        )
        self.rate_limit_fallbacks = Counter(
            "parley_rate_limit_fallbacks",
            "Attempts that this node limited by itself, as Redis was away.",
            registry=self.registry,
        )
        self._bus_dropped = Counter(
            "parley_bus_dropped",
            "What was not told to other nodes by Redis; they read the log all the same.",
            ("what",),
            registry=self.registry,
        )

    def bus_dropped(self, what: str) -> None:
        self._bus_dropped.labels(what).inc()

    def _load(self) -> None:
        self.load_level = Gauge(
            "parley_load_level",
            "How much is left undone for the load: 0 nothing, 1 typing, 3 history, 4 all but sends"
            " and resumes.",
            registry=self.registry,
        )
        self.shed = Counter(
            "parley_shed",
            "What was left undone or put off for the load, by kind of work.",
            ("kind",),
            registry=self.registry,
        )
        self.gate_waiting = Gauge(
            "parley_gate_waiting",
            "Who waits for room to be served, by kind of work.",
            ("kind",),
            registry=self.registry,
        )

    def _process(self) -> None:
        self.loop_lag = Gauge(
            "parley_loop_lag_seconds",
            "How late the event loop was at the last look.",
            registry=self.registry,
        )
        self.loop_lags = Histogram(
            "parley_loop_lag_distribution_seconds",
            "How late the event loop was, four looks a second.",
            buckets=_LAGS,
            registry=self.registry,
        )
        self.db_in_use = Gauge(
            "parley_db_connections_in_use", "Connections lent by the pool.", registry=self.registry
        )
        self.bcrypt_queue = Gauge(
            "parley_bcrypt_queue",
            "Password hashes under way or waiting for their turn.",
            registry=self.registry,
        )


class _Count(Collector):
    """A counter whose value is read at each scrape."""

    def __init__(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self._name = name
        self._documentation = documentation
        self._read = read

    @override
    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._documentation, value=self._read())


class LoopLag:
    """Watches how late the event loop runs what is due."""

    def __init__(self, metrics: Metrics, *, period_s: float = LAG_PERIOD_S) -> None:
        self._metrics = metrics
        self._period_s = period_s
        self._last = 0.0
        self._due: float | None = None

    async def sample(self) -> None:
        """Look for as long as the task lives."""
        loop = asyncio.get_running_loop()
        while True:
            self._due = loop.time() + self._period_s
            await asyncio.sleep(self._period_s)
            self._last = max(0.0, loop.time() - self._due)
            self._metrics.loop_lag.set(self._last)
            self._metrics.loop_lags.observe(self._last)

    def current(self) -> float:
        """Return the lag in seconds: of the last look, or of one that is overdue right now."""
        if self._due is None:
            return 0.0
        return max(self._last, asyncio.get_running_loop().time() - self._due)


def metrics_app(metrics: Metrics, health: Health) -> web.Application:
    """Return the application of the metrics listener: /metrics, and the probes once more.

    Strangers, who might take up all connections where clients come in, do not reach this listener.
    """

    async def scrape(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=encode(metrics.registry),
            headers={"Content-Type": content_type, "Cache-Control": "no-store"},
        )

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/live", health.live)
    app.router.add_get("/ready", health.ready)
    return app
