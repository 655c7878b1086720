"""RunInfo: where a run happened."""

from monitor_cases import quiet_trainer

import lightning_fastdata
from lightning_fastdata.callbacks.monitor.run_info import RunInfo


def test_what_ran_where():
    info = RunInfo.of(quiet_trainer())
    assert info.versions["lightning_fastdata"] == lightning_fastdata.__version__
    assert set(info.versions) == {"lightning_fastdata", "rules", "lightning", "torch", "python"}
    assert info.versions["rules"] == "2"
    assert (info.rank, info.world_size) == (0, 1)
