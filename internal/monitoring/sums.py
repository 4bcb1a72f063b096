"""One page of metrics for several processes: their sum, which never goes back when one dies."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_fd_to_metric_families
from prometheus_client.registry import Collector
from typing_extensions import override

# What a process is asked for: the format that keeps a counter and its age together.
ACCEPT: Final = "application/openmetrics-text; version=1.0.0"

# Gauges whose sum would mean nothing: of these the largest is shown. All others are added. Users
# with sockets on several processes are counted once for each.
LARGEST: Final = frozenset(
    {
        "parley_load_level",
        "parley_loop_lag_seconds",
        "parley_outbox_oldest_age_seconds",
        "parley_tailer_lag_events",
        "parley_users_online",
        "process_start_time_seconds",
    }
)
# Counts that go on where a dead process has left them.
_COUNTS: Final = frozenset({"counter", "histogram", "summary"})
# Since when something is counted: since the first process began.
_CREATED: Final = "_created"
_EMPTY: Final = "# EOF\n"

_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
_Combine: TypeAlias = Callable[[float, float], float]


@dataclass(slots=True)
class _Family:
    kind: str
    documentation: str
    values: dict[_Key, float] = field(default_factory=dict)

    def take(self, other: "_Family", name: str) -> None:
        for key, value in other.values.items():
            mine = self.values.get(key)
            self.values[key] = value if mine is None else _combine(name, key[0])(mine, value)


_Page: TypeAlias = dict[str, _Family]


class Sums:
    """The last page of each process that lives, and the counts of all that lived."""

    def __init__(self) -> None:
        # Read only when they are shown or kept: most are replaced before that.
        self._pages: dict[int, str] = {}
        self._retired: _Page = {}

    def enter(self, process: int) -> None:
        """From now on this process counts. Each has a key of its own, also after a restart."""
        self._pages[process] = _EMPTY

    def update(self, process: int, text: str) -> None:
        """Replace the page of a process, unless it has left meanwhile."""
        if process in self._pages:
            self._pages[process] = text

    def leave(self, process: int) -> None:
        """Keep what a dead process has counted up to its last page."""
        page = _read(self._pages.pop(process, _EMPTY))
        _add(self._retired, {name: one for name, one in page.items() if one.kind in _COUNTS})

    def render(self, accept: str, more: Iterable[Collector] = ()) -> tuple[bytes, str]:
        """Write the sum in the format that a scraper accepts; the bytes and their type."""
        registry = CollectorRegistry()
        registry.register(_Sum([self._retired, *map(_read, self._pages.values())]))
        for collector in more:
            registry.register(collector)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type


class _Sum(Collector):
    def __init__(self, pages: Iterable[_Page]) -> None:
        self._pages = pages

    def describe(self) -> Iterable[Metric]:
        """Tell nothing beforehand, so that registering collects nothing."""
        return ()

    @override
    def collect(self) -> Iterable[Metric]:
        total: _Page = {}
        for page in self._pages:
            _add(total, page)
        for name, family in total.items():
            metric = Metric(name, family.documentation, family.kind)
            for (sample, labels), value in family.values.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _read(text: str) -> _Page:
    page: _Page = {}
    for metric in text_fd_to_metric_families(StringIO(text)):  # type: ignore[no-untyped-call]  # untyped
        family = page[metric.name] = _Family(metric.type, metric.documentation)
        for sample in metric.samples:
            family.values[sample.name, tuple(sample.labels.items())] = sample.value
    return page


def _add(total: _Page, page: Mapping[str, _Family]) -> None:
    for name, family in page.items():
        mine = total.setdefault(name, _Family(family.kind, family.documentation))
        mine.take(family, name)


def _combine(family: str, sample: str) -> _Combine:
    if family in LARGEST:
        return max
    return min if sample.endswith(_CREATED) else float.__add__
