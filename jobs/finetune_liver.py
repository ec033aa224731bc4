"""Runs the verb `liver`; scripts of users call this file by its name, so it stays."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the working directory need not be installed
from radnet_lake.cli import run_job

run_job("liver")
