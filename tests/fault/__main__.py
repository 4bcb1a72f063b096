"""`make fault`: faults against a real server for so many seconds; 1 when the promise was broken."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.fault.campaign import Plan, carry_out
from tests.fault.faults import FAULTS
from tests.fault.report import table


def main() -> int:
    options = _arguments()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = Plan(
        seconds=options.seconds,
        seed=seed,
        faults=options.fault or list(FAULTS),
        sabotage=options.sabotage,
    )
    folder = options.folder or Path(tempfile.mkdtemp(prefix="parley-fault-"))
    folder.mkdir(parents=True, exist_ok=True)
    # PostgreSQL, which does not run as root, has to get through.
    folder.chmod(0o755)
    sys.stdout.write(f"Faults for {plan.seconds:.0f} s, seed {seed}, histories in {folder}\n")
    result = asyncio.run(carry_out(plan, folder))
    sys.stdout.write(table(result))
    if result.violated:
        return 1
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fault", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier run")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="these alone")
    parser.add_argument("--sabotage", default="", help="a bug to build in; the run must fail")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
