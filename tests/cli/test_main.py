"""The commands as a person types them."""

import dataclasses
import json
import subprocess
import sys

import pytest

from lightning_fastdata import __version__
from lightning_fastdata.cli import main
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.results.run_file import read_run
from lightning_fastdata.results.stats import RankTimes


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
    monkeypatch.setattr("lightning_fastdata.hardware.detect.probe", lambda: hardware)
    return source


def test_doctor_for_people(capsys):
    """The doctor prints limits, meaning and advice, without color codes where there is no terminal."""
    assert main.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in ("CPUs", "<- decides", "What this means for a loader", "What to change"):
        assert part in printed
    assert "\x1b" not in printed


def test_doctor_keeps_long_sources_on_one_line_in_files(long_source, capsys):
    """Where the output is not a terminal a long source is neither cut nor folded at 80 columns."""
    main.main(["doctor"])
    assert long_source in capsys.readouterr().out


def test_doctor_json_is_only_json(long_source, capsys):
    """--json prints every field and the derived figures, and nothing else."""
    assert main.main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["usable_cpus"] == printed["cpus_per_rank"] == 4.0
    assert printed["binding_limit"]["source"] == long_source
    assert "ram_bytes" in printed


def test_a_wrong_environment_is_told_without_a_traceback(monkeypatch, capsys):
    """An error of ours goes to stderr as its three lines, with exit code 2."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "many")
    assert main.main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("LIGHTNING_FASTDATA_NUM_CPUS=many")
    assert "  Fix: " in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(("arguments", "shown"), [([], "doctor"), (["cache"], "build"), (["--version"], __version__)])
def test_without_a_command_the_help_or_the_version_is_shown(arguments, shown, capsys):
    """The help lists the commands, or the actions."""
    assert main.main(arguments) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["docter"], ["doctor", "--jsn"], ["--wrong"]])
def test_an_unknown_command_or_option_shows_help(arguments, capsys):
    """A wrong word gets the help and the word itself on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "usage: lightning-fastdata" in printed
    assert arguments[-1] in printed


def test_python_dash_m_runs_the_same():
    """``python -m lightning_fastdata`` hands on its arguments and the exit code."""
    assert "<- decides" in run("doctor").stdout
    assert run("doctor", LIGHTNING_FASTDATA_NUM_CPUS="-1").returncode == 2


def write_run(path, *, wait_s=0.05, steps=20, **changed):
    """A run of steps of 100 ms, half of it waiting if nothing else is said, as the monitor saves it."""
    from lightning_fastdata.results.records import StepRecord
    from lightning_fastdata.results.run_file_writer import RunFileWriter
    from lightning_fastdata.results.summary import summarize

    other_s = 0.05 - (wait_s or 0.0)
    records = [StepRecord(0, step, 8, wait_s, 0.0, 0.05, other_s, step == 0, 1, 1, 0) for step in range(steps)]
    sink = RunFileWriter(path, {"host": "here"})
    sink.write_steps(records)
    sink.close(dataclasses.replace(summarize(records), **changed))
    return path


@pytest.fixture
def run_file(tmp_path):
    """A run of 20 steps of 100 ms, half of it waiting."""
    return write_run(tmp_path / "run.jsonl")


@pytest.fixture
def html(monkeypatch):
    """What makes the page, as it is called; gives the calls."""
    calls = []

    def html_page(summary, records, *, title="Data wait", problems=()):
        calls.append((summary, records, title, problems))
        return f"<html>é {title}</html>"

    monkeypatch.setattr("lightning_fastdata.report.html.page.html_page", html_page)
    return calls


def test_report_shows_a_saved_run(run_file, capsys):
    """The table and the verdict of a run can be read again without training."""
    assert main.main(["report", str(run_file)]) == 0
    printed = capsys.readouterr().out
    assert "50.0 %" in printed
    assert "Max speedup at zero data wait: 2.00x" in printed


def without_its_end(path):
    """The file of the same run, had it been killed before its summary."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")


def test_report_of_a_run_that_was_killed(run_file, capsys):
    """Without its last line a file still gives the figures of the steps it holds, marked as interrupted."""
    without_its_end(run_file)
    assert main.main(["report", "--json", str(run_file)]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert printed.err.startswith("Problem: No summary: the run was killed")
    assert summary["status"] == "interrupted"
    assert summary["steps"] == 20
    assert summary["wait_s"] == pytest.approx(1.0)
    assert main.main(["report", str(run_file)]) == 0
    printed = capsys.readouterr()
    assert "Problem: No summary: the run was killed" in printed.out
    assert "interrupted" in printed.out
    assert printed.err == ""


def test_report_of_an_audit_says_which_command_it_is_for(audits, capsys):
    """Both write JSON lines."""
    assert main.main(["report", audits[0]]) == 2
    assert f"lightning-fastdata audit {audits[0]}" in capsys.readouterr().err


def test_json_has_no_nan(tmp_path, capsys):
    """It would be no JSON for anybody else."""
    path = write_run(tmp_path / "run.jsonl", plans={"train": {"x": [float("nan"), float("inf"), 1.5]}})
    path.write_text(path.read_text().replace("NaN", "1e999").replace("Infinity", "-1e999"))
    assert main.main(["report", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    summary = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} in {printed}"))
    assert summary["plans"]["train"]["x"] == [None, None, 1.5]


def test_html_is_written_and_said(run_file, tmp_path, html, capsys):
    """As UTF-8, with the figures of the file."""
    out = tmp_path / "out.html"
    without_its_end(run_file)
    assert main.main(["report", str(run_file), "--html", str(out)]) == 0
    assert out.read_bytes() == "<html>é run.jsonl</html>".encode()
    printed = capsys.readouterr().out
    assert "Data wait / training time" in printed
    assert printed.splitlines()[-1] == f"Written: {out}"
    ((summary, records, title, problems),) = html
    assert (summary.status, len(records), title, len(problems)) == ("interrupted", 20, "run.jsonl", 1)


def test_html_beside_json_leaves_the_json_alone(run_file, tmp_path, html, capsys):
    """A program reads what is on stdout."""
    assert main.main(["report", str(run_file), "--json", "--html", str(tmp_path / "out.html")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["steps"] == 20
    assert printed.err == f"Written: {tmp_path / 'out.html'}\n"
    assert (tmp_path / "out.html").exists()


def test_html_with_half_a_character_is_written_all_the_same(run_file, tmp_path, monkeypatch):
    """The name of a sample's file may be any bytes."""
    monkeypatch.setattr("lightning_fastdata.report.html.page.html_page", lambda *_, **__: "x\udc80")
    assert main.main(["report", str(run_file), "--html", str(tmp_path / "out.html")]) == 0
    assert (tmp_path / "out.html").read_text() == r"x\udc80"


@pytest.mark.parametrize("out", [".", "file/out.html", "no/folder/out.html", "run.jsonl", "deep/../run.jsonl"])
def test_a_page_that_cannot_be_written_is_said(run_file, tmp_path, html, capsys, out):
    """A folder, a path below a file or in no folder, and the run file itself, which is not changed."""
    (tmp_path / "file").write_text("")
    (tmp_path / "deep").mkdir()
    before = run_file.read_text()
    assert main.main(["report", str(run_file), "--html", str(tmp_path / out)]) == 2
    printed = capsys.readouterr().err
    assert "--html" in printed
    assert "  Fix: " in printed
    assert run_file.read_text() == before
    assert not (tmp_path / "no").exists()


def ranks(share):
    return RankTimes(2, 2, 20, share, 0.1, 0.1, 2.0, 1, "b", 1.0, 1.0)


@pytest.mark.parametrize(
    ("limit", "changed", "code", "said"),
    [
        ("0.4", {}, 1, "50.0 % of the training time was spent waiting for data, above the limit of 40.0 %."),
        ("0.5", {}, 0, ""),
        ("0.6", {}, 0, ""),
        ("0", {"wait_share": 0.0}, 0, ""),
        ("1", {}, 0, ""),
        (
            "0.1",
            {"wait_share": 0.10004},
            1,
            "10.004 % of the training time was spent waiting for data, above the limit",
        ),
        ("0.6", {"ranks": ranks(0.7)}, 1, "70.0 % of the training time was spent waiting for data with all ranks"),
        ("0.4", {"ranks": ranks(0.3)}, 1, "50.0 % of the training time was spent waiting for data on rank 0, above"),
        ("0.6", {"ranks": ranks(0.6)}, 0, ""),
        ("0.6", {"wait_share": None, "ranks": ranks(0.7)}, 1, "70.0 % of"),
        ("1", {"wait_share": None}, 2, "was not measured"),
        ("1", {"wait_s": None, "wait_share": None, "ranks": ranks(None)}, 2, "was not measured"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_gate_is_an_exit_code_and_one_line(tmp_path, capsys, limit, changed, code, said, options):
    """Above the limit 1, not measured 2: what was not measured does not pass."""
    path = write_run(tmp_path / "run.jsonl", **changed)
    assert main.main(["report", str(path), "--fail-above", limit, *options]) == code
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("--fail-above: ")]
    assert len(lines) == (1 if said else 0)
    assert said in "".join(lines)
    assert "Steps" in printed.out or json.loads(printed.out)["steps"] == 20  # the report comes all the same


def test_the_gate_holds_for_a_run_that_was_killed(run_file, capsys):
    """By the steps it made; with none of them nothing was measured."""
    without_its_end(run_file)
    assert main.main(["report", str(run_file), "--fail-above", "0.4"]) == 1
    run_file.write_text(run_file.read_text().splitlines()[0] + "\n")
    assert main.main(["report", str(run_file), "--fail-above", "1"]) == 2
    assert "does not pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10", "for 10 % write 0.1"),
        ("-0.1", "such as 0.10 for 10 %"),
        ("200", "such as 0.10 for 10 %"),
        ("nan", "such as 0.10 for 10 %"),
        ("10%", "such as 0.10 for 10 %"),
        ("0,1", "such as 0.10 for 10 %"),
    ],
)
def test_a_limit_is_a_share(run_file, capsys, text, hint):
    """Percent by mistake would let everything pass."""
    with pytest.raises(SystemExit) as caught:
        main.main(["report", str(run_file), f"--fail-above={text}"])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()  # not the whole help: the option was found
    assert line.startswith("lightning-fastdata report: argument --fail-above: ")
    assert hint in line
    assert printed.out == ""


def test_help_of_report_has_the_exit_codes(capsys):
    """For whoever writes the script."""
    with pytest.raises(SystemExit):
        main.main(["report", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0; 1 with --fail-above" in printed
    assert "(0.10 = 10 %)" in printed


@pytest.fixture
def pair(tmp_path):
    """Two files: half of the time waiting, and a tenth of it."""
    return str(write_run(tmp_path / "a.jsonl")), str(write_run(tmp_path / "b.jsonl", wait_s=0.01))


def test_compare_shows_both_runs(pair, capsys):
    """With what changed last."""
    assert main.main(["compare", *pair]) == 0
    printed = capsys.readouterr().out
    for part in (" a.jsonl ", " b.jsonl ", "50.0 %", "10.0 %", "-40.0 points"):
        assert part in printed
    last = printed.splitlines()[-1]
    assert last == (
        "b.jsonl against a.jsonl: 1.00x the samples per second, data wait / training time 10.0 % instead of 50.0 %."
    )


@pytest.mark.parametrize(
    ("a", "b", "called"),
    [
        ("runs/1/run.jsonl", "runs/2/run.jsonl", ["1/run.jsonl", "2/run.jsonl"]),
        ("runs/a.jsonl", "a.jsonl", ["runs/a.jsonl", "a.jsonl"]),
        ("/x/a.jsonl", "/x/y/a.jsonl", ["a.jsonl", "y/a.jsonl"]),
        ("x/a.jsonl", "x/a.jsonl", ["a.jsonl", "a.jsonl"]),
    ],
)
def test_compare_leaves_out_folders_that_both_are_in(monkeypatch, pair, a, b, called, capsys):
    """What is left tells them apart, in columns that stay narrow."""
    monkeypatch.setattr("lightning_fastdata.results.run_file.read_run", lambda _: read_run(pair[0]))
    assert main.main(["compare", a, b]) == 0
    (header,) = (line for line in capsys.readouterr().out.splitlines() if "difference" in line)
    assert header.split() == [*called, "difference"]


def test_compare_as_json(pair, tmp_path, capsys):
    """Both summaries, and what the second has more."""
    without_its_end(tmp_path / "b.jsonl")
    assert main.main(["compare", *pair, "--json"]) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert list(values) == ["a", "b", "difference"]
    assert (values["a"]["status"], values["b"]["status"]) == ("finished", "interrupted")
    assert values["difference"]["wait_share"] == pytest.approx(-0.4)
    assert printed.err.startswith(f"Problem: {pair[1]}: No summary")
    assert printed.err.count("\n") == 1


def test_compare_with_what_is_no_run_file(pair, audits, tmp_path, capsys):
    """Three lines and exit code 2, whichever of the two it is."""
    for command in (["report"], ["compare", pair[0]]):
        assert main.main([*command, str(tmp_path / "nowhere.jsonl")]) == 2
        assert "nowhere.jsonl" in capsys.readouterr().err
    assert main.main(["compare", audits[1], pair[1]]) == 2
    printed = capsys.readouterr()
    assert (printed.out, "  Fix: " in printed.err) == ("", True)


@pytest.fixture
def audits(tmp_path):
    """Three audits: a run, the same again with an epoch more, and another one."""
    from lightning_fastdata.callbacks.audit.digest import BatchSums, EpochSums, read_vector
    from lightning_fastdata.results.audit_file import append_epoch

    def write(name, epochs, changed=None):
        for epoch in range(epochs):
            sums = EpochSums(epoch=epoch)
            for batch in range(10):
                sums.note(BatchSums(batch, 8, (epoch, batch) == changed, None))
            sums.settle()
            append_epoch(tmp_path / name, read_vector(sums.vector(), 1, sums))
        return str(tmp_path / name)

    return write("one.jsonl", 2), write("longer.jsonl", 3), write("other.jsonl", 2, (1, 7))


def test_audit_of_one_run(audits, capsys):
    """A table of its epochs."""
    assert main.main(["audit", audits[0]]) == 0
    printed = capsys.readouterr().out
    assert "Global batches" in printed
    assert "not measured" in printed


def test_audit_of_two_runs_is_one_line_and_an_exit_code(audits, capsys):
    """For a script as for a person: 0 only where all of both is the same."""
    a, longer, other = audits
    assert main.main(["audit", a, a]) == 0
    assert capsys.readouterr().out == "same: 2 epochs, 20 global batches, 160 samples (order)\n"
    assert main.main(["audit", a, longer]) == 1
    assert capsys.readouterr().out.endswith(f"(order); {longer} has 1 epoch more\n")
    assert main.main(["audit", a, other]) == 1
    assert capsys.readouterr().out == "differs: first in epoch 1, global batch 7 (order)\n"


@pytest.mark.parametrize("text", ["", "{", "no audit\n"])
def test_audit_of_what_is_none(audits, tmp_path, capsys, text):
    """Three lines on stderr and exit code 2."""
    (tmp_path / "wrong.jsonl").write_text(text)
    assert main.main(["audit", audits[0], str(tmp_path / "wrong.jsonl")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "wrong.jsonl" in printed.err
    assert "  Fix: " in printed.err


@pytest.mark.parametrize(
    "command", [["doctor"], ["report"], ["report", "--json"], ["compare"], ["compare", "--json"], ["audit"]]
)
def test_answers_come_without_heavy_imports(pair, audits, command):
    """They are there while an import of torch would still run."""
    files = {"doctor": (), "report": pair[:1], "compare": pair, "audit": (audits[0], audits[0])}[command[0]]
    heavy = {"torch", "lightning", "numpy", "lightning_fastdata.callbacks.monitor"}
    heavy |= {"psutil"} if sys.platform == "linux" or files else set()
    code = (
        f"import sys; from lightning_fastdata.cli.main import main; main({[*command, *files]!r}); "
        f"sys.stderr.write(str(sorted({heavy!r} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == "[]"
