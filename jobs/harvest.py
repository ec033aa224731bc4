from radnet_lake.cli import run_job

run_job("harvest")
