"""Starts the server with a bug built in: `launch.py <bug>`. For tests of the checker alone."""

import runpy
import sys
from pathlib import Path

from tests.fault.sabotage.bugs import BUGS

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    runpy.run_path(str(Path(__file__).parents[3] / "cmd" / "main.py"), run_name="__main__")
