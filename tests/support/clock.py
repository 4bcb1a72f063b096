"""A clock that stands until the test moves it."""

from datetime import UTC, datetime, timedelta


class StandingClock:
    def __init__(self) -> None:
        self.at = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def pass_by(self, **units: float) -> None:
        """Let so many `seconds`, `days` and so on go by."""
        self.at += timedelta(**units)
