"""Two processes on one machine: each rank measures itself, and none waits for the other because of us."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fastdata.results.run_file import read_run

SCRIPT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from monitor_cases import Net, Sleeper, quiet_monitor, quiet_trainer

if __name__ == "__main__":
    monitor = quiet_monitor(save_to=sys.argv[1], summary=True, log_every_n_steps=2)
    trainer = quiet_trainer(monitor, strategy="ddp_spawn", devices=2)
    trainer.fit(Net(), Sleeper(6, 0.03))
    try:
        monitor.summary()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_each_rank_keeps_its_own_records_and_rank_zero_prints(tmp_path):
    """Trap 27 under ddp_spawn; the parent, which measured nothing, says where the figures are."""
    script, path = tmp_path / "train.py", tmp_path / "run.jsonl"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Data wait / training time") == 1
    assert "FastDataError" in done.stdout
    for rank, name in enumerate(["run.jsonl", "run.rank1.jsonl"]):
        run = read_run(tmp_path / name)
        header, records, summary = run.header, run.records, run.summary
        assert (header["rank"], summary.rank, summary.world_size) == (rank, rank, 2)
        assert len(records) == 6
        assert all(record.rank == rank and record.wait_s >= 0.03 for record in records)
    assert json.loads(path.read_text().splitlines()[-1])["status"] == "finished"
