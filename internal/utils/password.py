"""Password hashes: bcrypt, off the event loop, and only so many at once."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha384
from typing import Final, TypeVar

import bcrypt

from internal.errors import Unavailable

T = TypeVar("T")

# bcrypt works for a quarter of a second at cost 12 and lets go of the interpreter's lock meanwhile:
# one core of two or more stays with the event loop.
_AT_ONCE: Final = 2
_MOST_WAITING: Final = 128


class Passwords:
    """Makes and checks hashes of passwords of any length and any characters."""

    def __init__(self, cost: int, *, at_once: int = _AT_ONCE, most: int = _MOST_WAITING) -> None:
        """`most` may wait or be at work; who comes then is told to come again."""
        self._cost = cost
        self._most = most
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="bcrypt")
        self._queued = 0
        # The highest cost that was set or seen in a hash: what every refusal takes.
        self._dearest = cost

    def queued(self) -> int:
        """How many wait or are at work."""
        return self._queued

    async def hash(self, password: str) -> str:
        salt = bcrypt.gensalt(self._cost)
        return (await self._run(partial(bcrypt.hashpw, _digest(password), salt))).decode()

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is that of the hash. None is the hash of nobody: always False."""
        if password_hash is not None:
            self._dearest = max(self._dearest, _cost_of(password_hash))
        return await self._run(partial(_check, _digest(password), password_hash, self._dearest))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with another cost than is set now."""
        return _cost_of(password_hash) != self._cost

    def close(self) -> None:
        """Let go of the threads. What still waits is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._queued >= self._most:
            raise Unavailable(retry_after=1)
        self._queued += 1
        try:
            future = self._threads.submit(work)
        except BaseException:
            self._queued -= 1
            raise
        # Not when the waiter leaves: a client that hangs up does not stop the thread.
        future.add_done_callback(self._count_down(asyncio.get_running_loop()))
        return await asyncio.wrap_future(future)

    def _count_down(self, loop: asyncio.AbstractEventLoop) -> Callable[[object], None]:
        def leave() -> None:
            self._queued -= 1

        def done(_future: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(leave)

        return done


def _check(digest: bytes, password_hash: str | None, dearest: int) -> bool:
    """Compare. A refusal takes as long as the dearest hash: of nobody, or of whatever cost."""
    if password_hash is None:
        bcrypt.hashpw(digest, bcrypt.gensalt(dearest))
        return False
    if bcrypt.checkpw(digest, password_hash.encode()):
        return True
    # Each cost takes twice as long as the one before, so a hash of cost 10 and others of 10 and 11
    # take together as long as one of 12.
    for cost in range(_cost_of(password_hash), dearest):
        bcrypt.hashpw(digest, bcrypt.gensalt(cost))
    return False


def _cost_of(password_hash: str) -> int:
    return int(password_hash.split("$")[2])


def _digest(password: str) -> bytes:
    """64 characters for a password of any length: bcrypt takes 72 bytes, and none that is NUL."""
    return b64encode(sha384(password.encode()).digest())
