"""RunInfo: where a run happened."""

from importlib.metadata import PackageNotFoundError

from monitor_cases import quiet_trainer

from lightning_fastdata.callbacks.monitor import run_info
from lightning_fastdata.callbacks.monitor.run_info import RunInfo


def test_sources_that_are_only_on_the_path_have_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(run_info, "version", missing)
    info = RunInfo.of(quiet_trainer())
    assert info.versions["lightning_fastdata"] == "not installed"
    assert set(info.versions) == {"lightning_fastdata", "lightning", "torch", "python"}
    assert (info.rank, info.world_size) == (0, 1)
