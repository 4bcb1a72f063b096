"""Until when the answer to a request is wanted: past that, what it has not begun is not begun.

It belongs to the task that serves the request, and reaches the database without being handed on
from call to call. Tasks of the server itself have none.
"""

import asyncio
from contextvars import ContextVar
from typing import Final

# Clients give up after half a minute and more; an answer that comes then is work for nobody.
ANSWER_S: Final = 20.0

_AT: ContextVar[float | None] = ContextVar("deadline", default=None)


def begin(seconds: float = ANSWER_S) -> None:
    """Want the answer within so long from now."""
    _AT.set(asyncio.get_running_loop().time() + seconds)


def lift() -> None:
    """Want it whenever it comes: what follows is no request any more."""
    _AT.set(None)


def at() -> float | None:
    """The moment by the loop's clock; None when there is none."""
    return _AT.get()


def has_passed() -> bool:
    moment = _AT.get()
    return moment is not None and asyncio.get_running_loop().time() >= moment
