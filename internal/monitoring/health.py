"""Whether the process lives, and whether it can serve: /live and /ready."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import msgspec
import structlog
from aiohttp import web

# Returns None when all is well, else a reason: a sentence for strangers, so without secrets.
Check = Callable[[], Awaitable[str | None]]
Status = Literal["ready", "degraded", "unavailable"]

LONGEST_LAG_S = 1.0
_ANSWERS = {"ready": 200, "degraded": 200, "unavailable": 503}
_OK = "ok"

log = structlog.get_logger(__name__)


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    status: Status
    checks: dict[str, str]


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["live", "stuck"]
    loop_lag_s: float


class Health:
    """Answers the two questions of a supervisor.

    Without a required check the server can't serve; without an optional one it serves less.
    """

    def __init__(
        self,
        required: Mapping[str, Check],
        optional: Mapping[str, Check] | None = None,
        *,
        lag: Callable[[], float],
        timeout_s: float = 2.0,
        fresh_for_s: float = 0.25,
    ) -> None:
        self._required = dict(required)
        self._optional = dict(optional or {})
        self._lag = lag
        self._timeout_s = timeout_s
        self._fresh_for_s = fresh_for_s
        self._draining = False
        self._run: asyncio.Task[Readiness] | None = None
        self._run_at = float("-inf")

    def drain(self) -> None:
        """From now on the server is not ready: it is about to stop."""
        self._draining = True

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def live(self, _request: web.Request) -> web.Response:
        lag = self._lag()
        stuck = lag >= LONGEST_LAG_S
        answer = Liveness(status="stuck" if stuck else "live", loop_lag_s=round(lag, 3))
        return _json(answer, status=503 if stuck else 200)

    async def ready(self, _request: web.Request) -> web.Response:
        readiness = await self.readiness()
        return _json(readiness, status=_ANSWERS[readiness.status])

    async def readiness(self) -> Readiness:
        """Run the checks, or share the run of somebody who asked a moment ago."""
        if self._draining:
            return Readiness(status="unavailable", checks={"draining": "the server is stopping"})
        now = asyncio.get_running_loop().time()
        if self._run is None or (self._run.done() and now - self._run_at > self._fresh_for_s):
            self._run = asyncio.create_task(self._check_all(), name="readiness")
            self._run_at = now
        # Shielded: one who hangs up must not end the run for those who share it.
        return await asyncio.shield(self._run)

    async def _check_all(self) -> Readiness:
        checks = {**self._required, **self._optional}
        reasons = await asyncio.gather(*(self._one(name, check) for name, check in checks.items()))
        results = dict(zip(checks, reasons, strict=True))
        status: Status = "ready"
        if any(results[name] != _OK for name in self._optional):
            status = "degraded"
        if any(results[name] != _OK for name in self._required):
            status = "unavailable"
        return Readiness(status=status, checks=results)

    async def _one(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await check() or _OK
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except Exception as error:  # Whatever a check meets is an answer: not ready.
            # Its kind alone: a driver's message may name users, hosts and statements.
            log.warning("readiness check failed", check=name, exc_info=error)
            return f"failed ({type(error).__name__})"


def _json(answer: msgspec.Struct, *, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(answer),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
