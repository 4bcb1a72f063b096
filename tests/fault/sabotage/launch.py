"""Starts the server with a bug or a burden built in: `launch.py <name>`. For tests alone."""

import runpy
import sys
from pathlib import Path

from tests.fault.sabotage.bugs import BUGS, BURDENS

if __name__ == "__main__":
    {**BUGS, **BURDENS}[sys.argv.pop(1)]()
    runpy.run_path(str(Path(__file__).parents[3] / "cmd" / "main.py"), run_name="__main__")
