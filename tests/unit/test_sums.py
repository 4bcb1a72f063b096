"""The page of metrics that stands for several processes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from internal.monitoring.metrics import Metrics
from internal.monitoring.sums import ACCEPT, LARGEST, Sums

ADDED = {
    "parley_active_users",
    "parley_bcrypt_queue",
    "parley_db_connections_in_use",
    "parley_gate_waiting",
    "parley_gateway_sockets",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
}


class Page:
    """A process with one metric of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sent = Counter("sent", "Sent.", ("to",), registry=self.registry)
        self.open = Gauge("open", "Open.", registry=self.registry)
        self.lag = Gauge("parley_loop_lag_seconds", "Late.", registry=self.registry)
        self.took = Histogram("took", "Took.", buckets=(1, 5), registry=self.registry)

    def text(self) -> str:
        return page_of(self.registry)


def page_of(registry: CollectorRegistry) -> str:
    encode, _ = choose_encoder(ACCEPT)
    return encode(registry).decode()


def values(sums: Sums) -> dict[tuple[str, str], float]:
    """What a scraper reads, by the name of the sample and its only label."""
    content, _ = sums.render("")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def test_counts_are_added_and_lags_are_not() -> None:
    one, two, sums = Page(), Page(), Sums()
    one.sent.labels("ada").inc(3)
    two.sent.labels("ada").inc(4)
    two.sent.labels("bob").inc(1)
    one.open.set(10)
    two.open.set(5)
    one.lag.set(0.25)
    two.lag.set(0.5)
    one.took.observe(0.5)
    two.took.observe(3)
    for process, page in enumerate((one, two)):
        sums.enter(process)
        sums.update(process, page.text())

    found = values(sums)

    assert found["sent_total", "ada"] == 7
    assert found["sent_total", "bob"] == 1
    assert found["open", ""] == 15
    assert found["parley_loop_lag_seconds", ""] == 0.5
    assert found["took_bucket", "1.0"] == 1
    assert found["took_bucket", "5.0"] == 2
    assert found["took_count", ""] == 2
    assert found["took_sum", ""] == 3.5


def test_the_counts_of_a_dead_process_stay_and_its_gauges_go() -> None:
    one, two, sums = Page(), Page(), Sums()
    one.sent.labels("ada").inc(3)
    one.open.set(10)
    sums.enter(1)
    sums.update(1, one.text())
    sums.leave(1)
    sums.update(1, one.text())
    assert values(sums)["sent_total", "ada"] == 3
    assert ("open", "") not in values(sums)

    two.sent.labels("ada").inc(1)
    sums.enter(2)
    sums.update(2, two.text())
    sums.leave(2)
    assert values(sums)["sent_total", "ada"] == 4


def test_what_has_been_counted_since_when_is_the_earliest() -> None:
    older, newer, sums = Page(), Page(), Sums()
    for process, page in enumerate((newer, older)):
        page.sent.labels("ada").inc()
        sums.enter(process)
        sums.update(process, page.text())
    begun = values(sums)["sent_created", "ada"]
    for page in (older, newer):
        sums_of_one = Sums()
        sums_of_one.enter(0)
        sums_of_one.update(0, page.text())
        assert begun <= values(sums_of_one)["sent_created", "ada"]


def test_the_sum_is_written_in_the_format_that_is_asked_for() -> None:
    sums = Sums()
    sums.enter(0)
    sums.update(0, page_of(Metrics().registry))
    content, kind = sums.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
    again = Sums()
    again.enter(0)
    again.update(0, content.decode())
    assert again.render("") == sums.render("")


def test_of_every_gauge_it_is_said_whether_it_adds() -> None:
    """A sum of lags would be wrong, and nobody would see it: a new gauge goes into one list."""
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    assert gauges == ADDED | LARGEST
