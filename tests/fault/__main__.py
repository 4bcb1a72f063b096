"""`make fault`: faults against real servers for so many seconds; 1 when the promise was broken."""

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import structlog
import uvloop

from tests.fault.campaign import Plan, carry_out
from tests.fault.faults import FAULTS
from tests.fault.report import table
from tests.fault.world import Scale

# What is tried in a short run: the hardest of each kind.
_SHORT: Final = ("kill_node", "kill_postgres", "kill_redis", "rolling_restart")
# A node that is alone has no Redis.
_SHORT_ALONE: Final = ("kill_node", "kill_postgres", "rolling_restart")
_SHORT_S: Final = 75.0
_SHORT_AT_MOST_S: Final = 125.0
# Of a thorough run whose time is not told: each fault comes so often.
_ROUNDS: Final = 2
_CROWD: Final = Scale(writers=24, drifters=4, think_s=0.04)


def main() -> int:
    options = _arguments()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The embedded PostgreSQL of the run tells of each of its deaths; the table does, too.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    plan = _plan(options, seed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="parley-fault-"))
    folder.mkdir(parents=True, exist_ok=True)
    # PostgreSQL, which does not run as root, has to get through.
    folder.chmod(0o755)
    sys.stdout.write(
        f"{len(plan.faults)} faults, {plan.nodes} node(s), seed {seed}, histories in"
        f" {folder}/histories\n"
    )
    result = uvloop.run(carry_out(plan, folder))
    sys.stdout.write(table(result))
    if result.has_failed:
        return 1
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _plan(options: argparse.Namespace, seed: int) -> Plan:
    # What was named, or what proves the least that is to be proved, may not be left out.
    required = options.fault or (_SHORT if options.nodes > 1 else _SHORT_ALONE)
    names = options.fault or (list(FAULTS) if options.full else required)
    if options.full:
        rounds = _ROUNDS if options.seconds is None else 1
        seconds, at_most_s = options.seconds or 0, float("inf")
    else:
        rounds, seconds = 1, options.seconds or _SHORT_S
        at_most_s = max(seconds, _SHORT_AT_MOST_S)
    return Plan(
        seconds=seconds,
        seed=seed,
        nodes=options.nodes,
        faults=names,
        required=required,
        rounds=rounds,
        is_thorough=options.full,
        messages=options.messages,
        at_most_s=at_most_s,
        scale=_CROWD,
        sabotage=options.sabotage,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fault", description=__doc__)
    parser.add_argument("--seconds", type=float, help="for so long, settling not included")
    parser.add_argument("--full", action="store_true", help="all faults, at their full length")
    parser.add_argument("--nodes", type=int, default=3, help="1 keeps its PostgreSQL within")
    parser.add_argument("--messages", type=int, default=0, help="fewer acknowledged ones fail")
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier run")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="these alone")
    parser.add_argument("--sabotage", default="", help="a bug to build in; the run must fail")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
