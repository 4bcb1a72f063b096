"""Start Parley: read the environment, serve until told to stop."""

import os
import sys
from pathlib import Path

try:
    import uvloop

    from internal.config.config import ConfigError, load, read_dotenv
    from internal.config.docs import describe
    from internal.serve import CannotServe, serve
    from internal.supervisor import supervise
    from internal.workers import WORKER, read_worker
except KeyboardInterrupt:
    # Loading takes long enough for second thoughts, and nothing has been begun yet.
    sys.exit(0)


def main() -> int:
    """Run the server; 0 after a clean stop, 1 with one sentence on stderr otherwise."""
    try:
        worker = read_worker(os.environ.get(WORKER))
        config = load(os.environ, None if worker else read_dotenv(Path(".env")))
        if "--print-config" in sys.argv[1:]:
            sys.stdout.write(describe(config))
        elif worker is None and config.workers > 1:
            uvloop.run(supervise(config, (sys.executable, *sys.orig_argv[1:]), os.environ))
        else:
            uvloop.run(serve(config, worker))
    except (ConfigError, CannotServe) as fault:
        sys.stderr.write(f"parley: {fault}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
