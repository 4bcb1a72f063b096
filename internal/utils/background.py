"""Work that goes on as long as the server runs: a dead task is a fault, never silence."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


class Background:
    """Tasks that should never end. `failed` tells whoever runs the server when one did."""

    def __init__(self, *, patience_s: float = 3.0) -> None:
        self._patience_s = patience_s
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    async def stop(self) -> None:
        """End everything, the newest first.

        What goes on is told again: a library may have swallowed its cancellation.
        """
        left = list(reversed(self._tasks))
        while left:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=self._patience_s)
            left = [task for task in left if not task.done()]
            if left:
                _log.warning("background_task_goes_on", tasks=[task.get_name() for task in left])
        self._tasks.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        _log.error("background_task_ended", task=task.get_name(), exc_info=task.exception())
        self.failed.set()
