"""lightning_fastdata.cli: the commands as a person types them."""

import json
import subprocess
import sys

import pytest

from lightning_fastdata import __version__, cli
from lightning_fastdata.hardware import Hardware, Limit


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    import os

    command = [sys.executable, "-m", "lightning_fastdata", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environ})


@pytest.fixture
def long_source(monkeypatch):
    """A machine whose limit has a source of 200 characters."""
    source = "cgroup quota 400000/100000 us at /" + "x" * 166
    hardware = Hardware(cpu_limits=(Limit(source, 4.0, "quota"),))
    monkeypatch.setattr("lightning_fastdata.hardware.probe", lambda: hardware)
    return source


def test_doctor_for_people(capsys):
    """The doctor prints limits, meaning and advice, without colour codes where there is no terminal."""
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in ("CPUs", "<- decides", "What this means for a loader", "What to change"):
        assert part in printed
    assert "\x1b" not in printed


def test_doctor_keeps_long_sources_on_one_line_in_files(long_source, capsys):
    """Where the output is not a terminal a long source is neither cut nor folded at 80 columns."""
    cli.main(["doctor"])
    assert long_source in capsys.readouterr().out


def test_doctor_json_is_only_json(long_source, capsys):
    """--json prints every field and the derived figures, and nothing else."""
    assert cli.main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["usable_cpus"] == printed["cpus_per_rank"] == 4.0
    assert printed["binding_limit"]["source"] == long_source
    assert "ram_bytes" in printed


def test_a_wrong_environment_is_told_without_a_traceback(monkeypatch, capsys):
    """An error of ours goes to stderr as its three lines, with exit code 2."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "many")
    assert cli.main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("LIGHTNING_FASTDATA_NUM_CPUS=many")
    assert "  Fix: " in printed.err
    assert "Traceback" not in printed.err


def test_no_command_shows_help(capsys):
    """Without a command the help lists what there is."""
    assert cli.main([]) == 0
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["docter"], ["doctor", "--jsn"], ["--wrong"]])
def test_an_unknown_command_or_option_shows_help(arguments, capsys):
    """A wrong word gets the help and the word itself on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "usage: lightning-fastdata" in printed
    assert arguments[-1] in printed


def test_version(capsys):
    """--version prints the package's version."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_python_dash_m_runs_the_same():
    """``python -m lightning_fastdata`` hands on its arguments and the exit code."""
    assert "<- decides" in run("doctor").stdout
    assert run("doctor", LIGHTNING_FASTDATA_NUM_CPUS="-1").returncode == 2


def test_doctor_is_light():
    """The doctor loads neither torch, lightning nor numpy: it answers while an import of torch would still run."""
    code = (
        "import sys; from lightning_fastdata.cli import main; main(['doctor']); "
        "print(sorted({'torch', 'lightning', 'numpy', 'psutil'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = result.stdout.splitlines()[-1]
    assert loaded == ("[]" if sys.platform == "linux" else "['psutil']")


@pytest.fixture
def run_file(tmp_path):
    """A run of 20 steps of 100 ms, half of it waiting, as the monitor saves it."""
    from lightning_fastdata.monitor.sinks import JsonLinesSink
    from lightning_fastdata.records import StepRecord
    from lightning_fastdata.summary import summarise

    records = [
        StepRecord(
            epoch=0,
            step=number,
            samples=8,
            wait_s=0.05,
            transfer_s=0.0,
            compute_s=0.05,
            other_s=0.0,
            first_in_epoch=number == 0,
            batches=1,
            fetches=1,
            rank=0,
        )
        for number in range(20)
    ]
    path = tmp_path / "run.jsonl"
    sink = JsonLinesSink(path, {"host": "here"})
    sink.write_steps(tuple(record.to_dict().values()) for record in records)
    sink.close(summarise(records))
    return path


def test_report_shows_a_saved_run(run_file, capsys):
    """The table and the verdict of a run can be read again without training."""
    assert cli.main(["report", str(run_file)]) == 0
    printed = capsys.readouterr().out
    assert "50.0 %" in printed
    assert "at most 2.00x faster" in printed


def test_report_of_a_run_that_was_killed(run_file, capsys):
    """Without its last line a file still gives the figures of the steps it holds, marked as interrupted."""
    lines = run_file.read_text().splitlines()
    run_file.write_text("\n".join(lines[:-1]) + "\n")
    assert cli.main(["report", "--json", str(run_file)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "interrupted"
    assert summary["steps"] == 20
    assert summary["wait_s"] == pytest.approx(1.0)


def test_report_of_no_file_names_it(tmp_path, capsys):
    """A wrong path is one message on stderr and exit code 2."""
    assert cli.main(["report", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_doctor_answers_in_half_a_second():
    """The quickest of five counts: another program on the machine is not the doctor's time."""
    import time

    took_s = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("doctor").returncode == 0
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.5


@pytest.fixture
def audits(tmp_path):
    """Three audits: a run, the same again with an epoch more, and another one."""
    from lightning_fastdata.audit.digest import BatchSums, EpochSums, read_vector
    from lightning_fastdata.audit.file import append_epoch

    def write(name, epochs, changed=None):
        for epoch in range(epochs):
            sums = EpochSums(epoch=epoch)
            for batch in range(10):
                sums.note(BatchSums(batch, 8, (epoch, batch) == changed, None))
            sums.settle()
            append_epoch(tmp_path / name, read_vector(sums.vector(), 1, sums))
        return str(tmp_path / name)

    return write("a.jsonl", 2), write("longer.jsonl", 3), write("other.jsonl", 2, (1, 7))


def test_audit_of_one_run(audits, capsys):
    """A table of its epochs."""
    assert cli.main(["audit", audits[0]]) == 0
    printed = capsys.readouterr().out
    assert "Global batches" in printed
    assert "not measured" in printed


def test_audit_of_two_runs_is_one_line_and_an_exit_code(audits, capsys):
    """For a script as for a person: 0 only where all of both is the same."""
    a, longer, other = audits
    assert cli.main(["audit", a, a]) == 0
    assert capsys.readouterr().out == "same: 2 epochs, 20 global batches, 160 samples (order)\n"
    assert cli.main(["audit", a, longer]) == 1
    assert capsys.readouterr().out.endswith(f"(order); {longer} has 1 epoch more\n")
    assert cli.main(["audit", a, other]) == 1
    assert capsys.readouterr().out == "differs: first in epoch 1, global batch 7 (order)\n"


@pytest.mark.parametrize("text", ["", "{", "no audit\n"])
def test_audit_of_what_is_none(audits, tmp_path, capsys, text):
    """Three lines on stderr and exit code 2."""
    (tmp_path / "wrong.jsonl").write_text(text)
    assert cli.main(["audit", audits[0], str(tmp_path / "wrong.jsonl")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "wrong.jsonl" in printed.err
    assert "  Fix: " in printed.err


def test_comparing_audits_needs_no_torch(audits):
    """It answers while an import of torch would still run."""
    code = (
        f"import sys; from lightning_fastdata.cli import main; main(['audit', {audits[0]!r}, {audits[0]!r}]); "
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
