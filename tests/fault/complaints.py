"""What a node logs that no fault explains."""

from typing import Any, Final

import msgspec

# What says in a log of its own accord that something is wrong, without a traceback.
_GRAVE: Final = frozenset({"error", "critical"})
# What faults bring about: each is the node's own account of a process that was killed.
_EXPLAINED: Final = frozenset({"embedded_postgres_died", "embedded_postgres_restart_failed"})
# What a node raises while its database or its Redis is away.
_AWAY: Final = "internal.errors.Unavailable:"


def is_complaint(line: str) -> bool:
    """Whether a line of the log says that something went wrong which no fault explains."""
    try:
        entry: Any = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return "Traceback" in line
    if not isinstance(entry, dict) or entry.get("event") in _EXPLAINED:
        return False
    trace = str(entry.get("exception") or "")
    if trace:
        # The outermost exception comes first, its frames before its name.
        outermost = trace.partition("\ncaused by\n")[0]
        return not outermost.rpartition("\n")[2].startswith(_AWAY)
    return entry.get("level") in _GRAVE
