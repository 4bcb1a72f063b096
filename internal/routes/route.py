"""A row of the route table: one operation, and all that is said about it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from internal.errors import AppError
from internal.middleware.rate_limit import ACCOUNT, Rule
from internal.monitoring.load import Work

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation under one or several paths. The OpenAPI description is made from these."""

    method: str
    # The first is the operation's own; the others are the same under documented names.
    paths: tuple[str, ...]
    handle: Handle
    summary: str
    rule: Rule = ACCOUNT
    # Whether it is for anyone, without a token.
    is_public: bool = False
    body: Any = None
    query: Any = None
    answer: Any = None
    status: int = 200
    errors: tuple[type[AppError], ...] = ()
    # What becomes of it when there is too much to do.
    work: Work = Work.ORDINARY
    tag: str = ""
