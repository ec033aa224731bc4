"""The command line: takes words, prints an act's report, answers with an exit status.

Read first: app.py.
"""

from radnet_lake.cli.app import main, run_job

__all__ = ["main", "run_job"]
