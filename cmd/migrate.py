"""Applies migrations/*.sql to the configured database, or to the embedded one."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from internal.config.config import ConfigError, load, read_dotenv
from internal.db.embedded import EmbeddedError, embedded_postgres
from internal.db.migrate import MigrationError, migrate

ROOT = Path(__file__).resolve().parent.parent


async def main() -> None:
    if task := asyncio.current_task():
        # As Ctrl-C does: what is open is closed, the embedded server above all.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    config = load(os.environ, read_dotenv(ROOT / ".env"))
    async with AsyncExitStack() as stack:
        dsn = str(config.database_url or "")
        if not dsn:
            server = await stack.enter_async_context(embedded_postgres(config.data_dir))
            dsn = server.owner_dsn
        applied = await migrate(dsn, ROOT / "migrations")
    print(f"{len(applied)} migrations applied." if applied else "Nothing to do.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ConfigError, EmbeddedError, MigrationError) as error:
        sys.exit(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Interrupted; what has been applied stays.")
