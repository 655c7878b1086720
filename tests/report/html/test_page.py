"""The page of a run: its numbers are the run's, nothing in it can become markup, a browser shows it without a fault."""

import dataclasses
import html
import html.parser
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lightning_fastdata.report.html.histogram import histogram_of
from lightning_fastdata.report.html.page import html_page
from lightning_fastdata.report.html.style import STYLE
from lightning_fastdata.report.html.svg import nice_ticks
from lightning_fastdata.report.html.tags import Html, join, tag
from lightning_fastdata.report.step_columns import MOST_COLUMNS, columns_of
from lightning_fastdata.report.units import milliseconds, percent, seconds
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, SlowSample

RUNS = runpy.run_path(str(Path(__file__).with_name("recorded_runs.py")))["RUNS"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ATTACK = '</script><script>document.title="taken"</script><img src=x onerror=alert(1)>"\'&'
VOID = ("meta", "link")


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: elements in order, text by id, scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.scripts, self.faults = [], [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.elements.append((name, attributes))
        if name not in VOID:
            self.open.append((name, attributes.get("id")))
        if name == "script":
            self.scripts.append("")

    def handle_endtag(self, name):
        if not self.open or self.open[-1][0] != name:
            self.faults.append(name)
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[-1] += data
            return
        for _, name in self.open:
            if name is not None:
                self.texts[name] = self.texts.get(name, "") + data
        if not any(name in ("style", "title") for name, _ in self.open):
            self.texts[""] = self.texts.get("", "") + data + " "

    @property
    def values(self):
        return {of["id"]: float(of["data-value"]) for _, of in self.elements if "data-value" in of}

    def of_class(self, *classes):
        return [of for _, of in self.elements if set(classes) <= set((of.get("class") or "").split())]


def page_of(name, **changes):
    summary, records = RUNS[name]()
    summary = dataclasses.replace(summary, **changes)
    return summary, Page(html_page(summary, records))


# ----------------------------------------------------------------------------------------- every kind of run


@pytest.mark.parametrize("name", RUNS)
def test_every_run_gives_a_whole_page(name):
    """Tags close, ids are unique, nothing is fetched, and no figure reads as a programmer's nothing."""
    summary, records = RUNS[name]()
    text = html_page(summary, records)
    page = Page(text)
    assert not page.faults
    assert not page.open
    ids = [of["id"] for _, of in page.elements if "id" in of]
    assert len(ids) == len(set(ids))
    addresses = [of[key] for _, of in page.elements for key in ("src", "href", "action", "data") if key in of]
    assert addresses == ["data:,"]
    assert not re.search(r"@import|url\(", text)
    assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", page.texts[""])
    for name, words in page.texts.items():  # an option's value may well be None
        assert name in ("", "plan") or not re.search(r"(?<!=)\b(None|null|True|False)\b", words), name
    drawn = " ".join(
        str(value) for _, of in page.elements for key, value in of.items() if key in ("d", "x", "y", "style")
    )
    assert not re.search(r"nan|inf", drawn)
    assert "-0.00 s" not in page.texts[""]


@pytest.mark.parametrize("name", RUNS)
def test_the_whole_summary_is_in_the_page(name):
    """As JSON that reads back equal; what is no number is null there."""
    summary, records = RUNS[name]()
    page = Page(html_page(summary, records))
    found = json.loads(next(script for script in page.scripts if script.startswith('{"steps"')))
    wanted = json.loads(json.dumps(summary.to_dict()), parse_constant=lambda _: None)
    assert found == wanted


# ----------------------------------------------------------------------------------------- the figures


def test_key_figures_are_those_of_the_run():
    """To the last digit in data-value, and as a reader sees them in the text."""
    summary, page = page_of("input_bound")
    values = summary.to_dict()
    shown = {
        "wait_share": (values["wait_share"], percent),
        "wait_s": (values["wait_s"], seconds),
        "train_s": (values["train_s"], seconds),
        "samples_per_s": (values["samples_per_s"], "{:,.1f}".format),
        "total_s": (values["total_s"], seconds),
        "ledger-total_s": (values["total_s"], seconds),
        "p50": (values["wait_s_median"], milliseconds),
        "p95": (values["wait_s_p95"], milliseconds),
        "p99": (values["wait_s_p99"], milliseconds),
        "wait_max": (values["wait_s_max"], milliseconds),
        "ceiling": (values["speedup_bound"]["speedup"], "{:.2f}x".format),
        "ceiling-low": (values["speedup_bound"]["low"], "{:.2f}".format),
        "ceiling-high": (values["speedup_bound"]["high"], "{:.2f}".format),
        "boundary-per_epoch_s": (values["boundary"]["per_epoch_s"], seconds),
        "boundary-saving_s_per_epoch": (values["boundary"]["saving_s_per_epoch"], seconds),
        "waits-stalled_s": (values["waits"]["stalled_s"], seconds),
        "waits-head_of_line_s": (values["waits"]["head_of_line_s"], seconds),
        "waits-worker_transfer_s": (values["waits"]["worker_transfer_s"], seconds),
        "queue_ready_mean": (values["waits"]["queue_ready_mean"], lambda mean: f"{mean:.1f} of 8"),
        "batch_s_mean": (values["loading"]["batch_s_mean"], milliseconds),
        "load_s": (values["loading"]["load_s"], seconds),
        "slow-0": (values["loading"]["slowest"][0]["load_s"], milliseconds),
        "slow-9": (values["loading"]["slowest"][9]["load_s"], milliseconds),
        "stage-val-wait_s": (values["stages"][0]["wait_s"], seconds),
        "stage-val/1-wait_s": (values["stages"][0]["loaders"][1]["wait_s"], seconds),
    }
    for name in ACCOUNTS:
        if name not in summary.not_measured:
            shown[f"ledger-{name}"] = (values["ledger"][name], seconds)
    for name, (value, text) in shown.items():
        assert page.values[name] == value, name
        assert page.texts[name] == text(value), name


def test_the_verdict_stands_on_top():
    """The sentence, why, what to try, and the ceiling with its interval."""
    summary, page = page_of("input_bound")
    assert f"{page.texts['verdict']} {page.texts['why']}" == summary.verdict.text
    assert page.texts["try_first"] == f"Try first{summary.verdict.try_first}"
    assert "input-bound" in page.of_class("level")[0]["class"]
    found = summary.speedup_bound
    assert page.texts["ceiling-text"].startswith(
        f"An instant loader would make this run at most {found.speedup:.2f}x faster"
        f" (95 %: {found.low:.2f} to {found.high:.2f}), start-up aside."
    )


@pytest.mark.parametrize("bounds", [(None, None), (None, 2.0), (float("nan"), float("inf"))])
def test_an_interval_that_is_not_known_reads_so(bounds):
    summary, _ = RUNS["input_bound"]()
    ceiling = dataclasses.replace(summary.speedup_bound, low=bounds[0], high=bounds[1])
    _, page = page_of("input_bound", speedup_bound=ceiling)
    assert "x faster (interval not measured), start-up aside." in page.texts["ceiling-text"]
    assert "rests on" not in page.texts["ceiling-text"]
    assert "ceiling-low" not in page.values


def test_the_waiting_of_validations_is_told_where_it_was_measured():
    _, page = page_of("input_bound", validation_wait_s=1.5)
    assert (page.values["validation_wait_s"], page.texts["validation_wait_s"]) == (1.5, "1.50 s")
    assert "validation_wait_s" not in page_of("input_bound", validation_wait_s=None)[1].values


@pytest.mark.parametrize(("told", "of"), [(6, "of 6"), (None, "of 4")])
def test_workers_kept_busy_are_of_all_loaders_that_told(told, of):
    summary, _ = RUNS["input_bound"]()
    loading = dataclasses.replace(summary.loading, num_workers=told)
    _, page = page_of("input_bound", loading=loading)
    busy = summary.loading.load_s / summary.train_s
    assert f"Workers kept busy, on average{busy:.1f} {of}" in page.texts["loading"]


def test_the_kinds_say_which_fetches_are_not_among_them():
    summary, _ = RUNS["input_bound"]()
    waits = dataclasses.replace(summary.waits, fetches=357)
    text = page_of("input_bound", waits=waits)[1].texts["waits-fetches"]
    assert text == "357 of 360 fetches; the 3 first batches of epochs are under Epoch boundary and Start-up."
    assert "waits-fetches" not in page_of("inline")[1].texts  # without workers they are
    one = page_of("one_step", waits=dataclasses.replace(waits, fetches=0))[1].texts["waits-fetches"]
    assert one == "0 of 1 fetches; the first batch of an epoch is under Start-up."


def test_blocked_while_others_were_ready_is_told_where_it_happened():
    summary, _ = RUNS["input_bound"]()
    assert "waits-head_of_line_s" in page_of("input_bound")[1].values
    waits = dataclasses.replace(summary.waits, head_of_line_fetches=0, head_of_line_s=0.0)
    assert "waits-head_of_line_s" not in page_of("input_bound", waits=waits)[1].values


def test_height_and_width_of_a_column_are_explained():
    text = page_of("input_bound")[1].texts["waits"]
    assert "One column a step: its height is the wait, its width the step’s whole time." in text
    assert "its width" not in page_of("without_new_fields")[1].texts["waits"]


def test_colours_mean_one_thing():
    """The histogram is of no kind, and a kind that was not measured is not "blocked"."""
    _, page = page_of("input_bound")
    assert page.of_class("bar", "steps")
    assert not page.of_class("bar", "wait")
    fills = dict(re.findall(r"\.chart path\.bar\.(\w+) \{ fill: var\(--([\w-]+)\)", STYLE))
    assert len(set(fills.values())) == len(fills) == 5
    _, page = page_of("without_new_fields")
    assert len(page.of_class("key", "bar", "wait")) == 1
    assert "Waiting whose kind was not measured" in page.texts["waits"]


def test_the_ledger_bar_shows_the_shares():
    """Widths are proportional to the accounts, those that were not measured are only in the table."""
    summary, page = page_of("input_bound")
    widths = {
        of["class"].split("account-")[1]: float(of["style"].removeprefix("flex-grow:"))
        for of in page.of_class("segment")
    }
    assert sum(widths.values()) == pytest.approx(1, abs=1e-5)
    assert widths["wait"] == pytest.approx(summary.ledger["wait_s"] / summary.total_s, abs=1e-6)
    assert set(widths) == {name[:-2] for name, value in summary.ledger.items() if value}
    for name in summary.not_measured:
        assert page.texts[f"ledger-{name}"] == "not measured"
        assert f"ledger-{name}" not in page.values


def test_an_account_of_a_newer_version_is_shown():
    """Left out, the accounts would not sum to the total."""
    summary, _ = RUNS["input_bound"]()
    _, page = page_of("input_bound", ledger={**summary.ledger, "new_thing_s": 1.5})
    assert page.values["ledger-new_thing_s"] == 1.5
    assert "New thing" in page.texts["ledger"]


@pytest.mark.parametrize(("exact", "words"), [(True, "would save 0.55 s"), (False, "would save at least 0.55 s")])
def test_a_saving_is_exact_or_a_bound(exact, words):
    _, page = page_of("input_bound", boundary=Boundary(2, 0.91, 0.38, 1.44, 0.12, 0.0, False, 0.55, exact))
    assert f"persistent_workers=True {words}" in page.texts["ledger"]


def test_ranks_are_shown_where_there_are_several():
    """Each with its own share, the slowest named; with one rank there is no such section."""
    summary, page = page_of("two_ranks")
    assert page.values["ranks-wait_share"] == summary.ranks.wait_share
    assert page.values["ranks-lost_s"] == summary.ranks.lost_s
    assert page.values["rank-0"] == 0.031
    assert page.values["rank-1"] == 0.284
    assert page.values["ranks-slowest_rank"] == 1
    assert "Rank 1 on node-18 most often held the others up: in 93.0 % of the steps." in page.texts["ranks"]
    assert [of["style"] for of in page.of_class("fill")] == ["width:10.92%", "width:100.00%"]
    assert len(page.of_class("slowest")) == 1
    assert "28.4 % – slowest" in page.texts["ranks"]
    assert "3.1 % – slowest" not in page.texts["ranks"]
    assert "ranks" not in page_of("input_bound")[1].texts


def test_of_many_ranks_those_that_waited_most_are_kept():
    _, page = page_of("many_ranks")
    assert len(page.of_class("fill")) == 32
    assert page.texts["rank-77"] == percent(0.01 + 0.2 + 77 / 5000)
    assert "missing 3, 4" in page.texts["ranks"]


def test_what_was_not_measured_reads_so():
    _, page = page_of("without_new_fields")
    for section in ("ledger", "loading", "device", "machine"):
        assert "not measured" in page.texts[section]
    assert "Batches ready in the queue: not measured." in page.texts["queue"]
    assert "steps, since the records do not tell when they ended" in page.texts["waits"]
    assert "there are no worker processes" in page_of("inline")[1].texts["queue"]
    assert "this run saw no CUDA device" in page.texts["device"]
    cuda = {"accelerators": [{"kind": "cuda", "name": "X", "source": ""}]}
    _, page = page_of("without_new_fields", hardware=cuda)
    assert "saw no CUDA device" not in page.texts["device"]
    assert "X (cuda)" in page.texts["machine"]


def test_the_device_is_shown_where_it_was_measured():
    summary, page = page_of("healthy")
    assert page.values["device-idle_s"] == summary.device.idle_s
    assert page.values["device-hidden_s"] == summary.device.hidden_s


@pytest.mark.parametrize(("status", "words"), [("interrupted", "was interrupted"), ("running", "still going on")])
def test_a_run_without_an_end_says_so(status, words):
    assert words in page_of("input_bound", status=status)[1].texts["status"]
    assert "status" not in page_of("input_bound")[1].texts


def test_problems_of_the_file_stand_on_top():
    summary, records = RUNS["input_bound"]()
    text = html_page(summary, records, problems=("Line 31 is cut off.", "The summary is missing."))
    assert "Line 31 is cut off.The summary is missing." in Page(text).texts["problems"]
    assert text.index("Line 31") < text.index('id="verdict"')


def test_plans_are_shown_with_their_reasons():
    """Options that say nothing without workers are left out, as in the terminal."""
    summary, page = page_of("input_bound")
    plan = page.texts["plan"]
    assert summary.plans["train"]["pin_memory"]["reason"] in plan
    assert "num_workers4set by you [you]" in plan
    assert plan.count("prefetch_factor") == 1


def test_the_machine_is_shown():
    _, page = page_of(
        "input_bound",
        hardware={
            "usable_cpus": 3.5,
            "cpus_per_rank": 1.75,
            "rank_binding_limit": {"source": "cpu.max"},
            "ram_bytes": 64 << 30,
            "ram_available_bytes": 3 << 29,
            "shm_total_bytes": 1 << 26,
            "accelerators": [{"kind": "cuda", "name": "H200"}] * 2,
            "notes": ["A note of the probe."],
        },
    )
    for words in ("3.5 (cpu.max)", "1.75", "64 GiB, 1.5 GiB available", "0.06 GiB", "2 × H200 (cuda)", "A note of the"):
        assert words in page.texts["machine"]


# ----------------------------------------------------------------------------------------- escaping


def attacked():
    """A run in which everything that comes from elsewhere would like to be markup."""
    summary, records = RUNS["two_ranks"]()
    ranks = dataclasses.replace(
        summary.ranks, slowest_host=ATTACK, rank_wait_share=((0, ATTACK, 0.1), (1, ATTACK, 0.2))
    )
    loading = dataclasses.replace(RUNS["input_bound"]()[0].loading, slowest=(SlowSample(ATTACK, 1.0, 0, 0, ATTACK),))
    return dataclasses.replace(
        summary,
        host=ATTACK,
        date=ATTACK,
        status=ATTACK,
        notes=(ATTACK,),
        versions={ATTACK: ATTACK},
        hardware={
            "accelerators": [{"kind": ATTACK, "name": ATTACK}],
            "notes": [ATTACK],
            "usable_cpus": 1,
            "rank_binding_limit": {"source": ATTACK},
        },
        plans={ATTACK: {ATTACK: {"value": ATTACK, "source": "user", "reason": ATTACK}, "other": ATTACK}},
        verdict=dataclasses.replace(summary.verdict, text=f"{ATTACK}. {ATTACK}", try_first=ATTACK, level=ATTACK),
        stages=(dataclasses.replace(RUNS["input_bound"]()[0].stages[0], stage=f"{ATTACK}"),),
        ledger={**summary.ledger, ATTACK: 1.0},
        timing_source=ATTACK,
        ranks=ranks,
        loading=loading,
    ), records


def test_nothing_of_a_run_becomes_markup():
    """Not in text, not in an attribute, not in the JSON; and every bit of it is still there to be read."""
    summary, records = attacked()
    text = html_page(summary, records, title=ATTACK, problems=(ATTACK,))
    page = Page(text)
    assert "<img" not in text
    assert len(page.scripts) == 3
    assert len([name for name, _ in page.elements if name == "script"]) == 3
    assert not [of for _, of in page.elements if any(key.startswith("on") for key in of)]
    assert not page.faults
    for section in (
        "loading",
        "ranks",
        "plan",
        "machine",
        "notes",
        "stages",
        "ledger",
        "verdict",
        "try_first",
        "problems",
    ):
        assert ATTACK in page.texts[section], section
    assert json.loads(next(script for script in page.scripts if '"steps"' in script))["host"] == ATTACK


def test_tags_escape_what_is_not_html():
    assert tag("p", "<b>", title='"&') == '<p title="&quot;&amp;">&lt;b&gt;</p>'
    assert tag("p", tag("b", 3), None, hidden=True, id=None, data_value=0) == '<p hidden data-value="0"><b>3</b></p>'
    assert isinstance(join("<", tag("i")), Html)
    assert join("<", tag("i")) == "&lt;<i></i>"


def test_a_name_that_is_no_text_can_be_written():
    """A file's name may hold bytes that are no UTF-8, and control characters."""
    summary, records = RUNS["input_bound"]()
    sample = SlowSample("1", 1.0, 0, 0, "a\udcff\x00\x1b[31m.jpg")
    text = html_page(
        dataclasses.replace(summary, loading=dataclasses.replace(summary.loading, slowest=(sample,))), records
    )
    assert r"a\udcff\x00\x1b[31m.jpg" in text.encode("utf-8").decode("utf-8")
    assert "\x00" not in text


# ----------------------------------------------------------------------------------------- drawings


def test_thousands_of_steps_become_columns_that_keep_their_sums():
    """The mean times the steps of each column is all the waiting; the largest wait is still there."""
    summary, records = RUNS["long_run"]()
    columns = columns_of(records)
    steps = columns.last - columns.first + 1
    assert columns.binned
    assert len(columns.left) <= MOST_COLUMNS
    assert steps.sum() == len(records) == columns.steps
    assert sum(columns.mean_s.values()) @ steps == pytest.approx(sum(record.wait_s for record in records))
    assert columns.max_s.max() == max(record.wait_s for record in records)
    assert np.nansum(columns.queue_mean * steps) == pytest.approx(sum(record.queue_ready for record in records))
    page = Page(html_page(summary, records))
    assert "Drawn are the 10,000 of 20,000 steps that were kept" in page.texts["waits"]
    assert f"10,000 steps in {len(columns.left)} columns" in page.texts["waits"]
    assert "mean of each column" in page.texts["waits"]


def test_few_steps_are_a_column_each():
    _, records = RUNS["input_bound"]()
    columns = columns_of(records)
    assert not columns.binned
    assert columns.by_time
    assert columns.max_s.tolist() == [record.wait_s for record in records]
    assert columns.right.tolist() == [record.end_s for record in records]
    assert [epoch for _, epoch in columns.epochs] == [0, 1, 2]
    assert (columns.left[1:] >= columns.right[:-1]).all()


def test_a_wait_is_split_into_its_kinds():
    """What is left over is of a kind that was not measured."""
    record = StepRecord(0, 0, 8, 0.5, None, 0.1, 0.0, True, 1, 1, 0, end_s=1.0, main_process_s=0.1, stalled_s=0.2)
    columns = columns_of([record])
    assert {kind: mean.tolist() for kind, mean in columns.mean_s.items()} == {
        "inline": [0.1],
        "blocked": [0.2],
        "wait": [pytest.approx(0.2)],
    }


def test_the_time_line_marks_what_lay_between():
    summary, page = page_of("input_bound")
    [bands] = [of for of in page.of_class("band", "validation") if "d" in of]
    assert bands["d"].count("M") == len([span for span in summary.spans if span.kind == "validation"]) == 2
    assert len([of for of in page.of_class("epoch") if "d" in of]) == 3
    assert not page_of("input_bound", spans=())[1].of_class("band")


def test_the_histogram_holds_every_step_once():
    waits = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.00999, 0.01, 1.0, 9.0, 10.0])
    edges, counts = histogram_of(waits)
    assert counts.sum() == len(waits)
    assert counts[0] == 3  # shorter than a clock can tell
    assert edges[0] == -6
    assert edges[-1] == 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7.3), (3, 3.5), (0, 123456), (0, 1e-5)])
def test_ticks_are_round_and_few(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert low <= ticks[0] <= ticks[-1] <= high * (1 + 1e-9)


# ----------------------------------------------------------------------------------------- colors


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_bars_can_be_told_from_their_ground(theme):
    """WCAG 2.1: 4.5 for words, also within the ledger's bar, 3 for what is drawn."""
    light, dark = STYLE.split("@media screen and (prefers-color-scheme: dark)")
    rules = {"light": light, "dark": dark.split("* {")[0]}[theme]
    colors = dict(re.findall(r"--([\w-]+): (#\w{6});", rules))
    for words in ("ink", "quiet", "accent", "good", "warn"):
        assert contrast(colors[words], colors["paper"]) >= 4.5, words
    accounts = re.findall(r"\.account-(\w+) \{ background: var\(--\1\); color: var\(--([\w-]+)\)", STYLE)
    assert len(accounts) == len(ACCOUNTS) - 1  # what is unattributed is hatched
    for account, words in accounts:
        assert contrast(colors[account], colors[words]) >= 4.5, account
    for drawn in ("blocked", "inline", "handoff", "queue", "unknown", "steps"):
        assert contrast(colors[drawn], colors["paper"]) >= 3, drawn


# ----------------------------------------------------------------------------------------- a browser


def browse(path, *arguments):
    """The page as the browser ends up with it, and what it said of errors."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, f"--user-data-dir={path.parent / 'profile'}", *arguments, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


IN_A_PHONE = """<!DOCTYPE html><body>
<iframe style="width:360px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = function () {{
  var inside = document.querySelector("iframe").contentDocument, root = inside.documentElement;
  var chart = inside.getElementById("wait-chart"), found = {{width: root.clientWidth, scroll: root.scrollWidth}};
  found.wide = Array.from(inside.querySelectorAll("body *:not(.unseen)")).filter(function (one) {{
    return !one.closest(".scrolls") && !one.closest("svg") && one.getBoundingClientRect().right > 360.5;
  }}).map(function (one) {{ return one.tagName + "." + one.className; }});
  inside.querySelectorAll("svg text").forEach(function (one) {{
    var box = one.getBoundingClientRect();
    if (box.right > 360.5 || box.left < -0.5) {{ found.wide.push("text " + one.textContent); }}
  }});
  found.values = {{}};
  inside.querySelectorAll("[data-value]").forEach(function (one) {{
    found.values[one.id] = Number(one.dataset.value);
  }});
  found.run = JSON.parse(inside.getElementById("run").textContent);
  found.title = inside.title;
  if (chart) {{
    var box = chart.getBoundingClientRect();
    chart.dispatchEvent(new PointerEvent("pointermove", {{clientX: box.right, clientY: box.top + 5}}));
    found.pointed = inside.getElementById("readout").textContent;
    chart.dispatchEvent(new KeyboardEvent("keydown", {{key: "ArrowLeft"}}));
    found.left = inside.getElementById("readout").textContent;
  }}
  document.documentElement.dataset.found = JSON.stringify(found);
}};
</script>"""


def in_a_phone(text, folder):
    """What the page measures on a screen 360 px wide, with the errors the browser told."""
    path = folder / "phone.html"
    path.write_text(IN_A_PHONE.format(page=html.escape(text)), encoding="utf-8")
    dom, said = browse(path)
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, said
    return json.loads(html.unescape(found[1])), said


needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome to open the page")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["input_bound", "long_run", "many_ranks", "inline", "no_records", "not_numbers"])
def test_a_browser_shows_the_page_on_a_phone(name, tmp_path):
    """Without an error, no wider than the screen, with the run's figures, and a column can be pointed at."""
    summary, records = RUNS[name]()
    found, said = in_a_phone(html_page(summary, records), tmp_path)
    assert said == []
    assert found["width"] == 360
    assert found["scroll"] <= 360
    assert found["wide"] == []
    assert found["run"] == json.loads(json.dumps(summary.to_dict()), parse_constant=lambda _: None)
    if summary.ledger and name != "not_numbers":
        assert {name: found["values"].get(f"ledger-{name}", 0.0) for name in ACCOUNTS} == summary.ledger
        assert found["values"]["wait_share"] == summary.wait_share
    if name == "input_bound":
        last, earlier = records[-1], records[-2]
        assert found["pointed"].startswith(f"Step {last.step}: {milliseconds(last.wait_s)}")
        assert found["left"].startswith(f"Step {earlier.step}: {milliseconds(earlier.wait_s)}")


@needs_browser
@pytest.mark.slow
def test_a_browser_runs_nothing_that_came_from_the_run(tmp_path):
    """With every name an attack: no error, no foreign script, no wider page."""
    summary, records = attacked()
    found, said = in_a_phone(html_page(summary, records, title=ATTACK, problems=(ATTACK,)), tmp_path)
    assert said == []
    assert found["title"] == ATTACK
    assert found["scroll"] <= 360
    assert found["run"]["host"] == ATTACK


@needs_browser
@pytest.mark.slow
def test_a_browser_opens_the_page_from_disk(tmp_path):
    """As a user does; the figures in its document are the run's, and its own script is let run."""
    summary, records = RUNS["input_bound"]()
    path = tmp_path / "run.html"
    path.write_text(html_page(summary, records), encoding="utf-8")
    dom, said = browse(path)
    assert said == []
    page = Page(dom)
    assert page.values["total_s"] == summary.total_s
    assert page.values["p95"] == summary.wait_s_p95
    assert "hidden" not in next(of for _, of in page.elements if of.get("id") == "readout")


@needs_browser
@pytest.mark.slow
def test_these_checks_can_fail(tmp_path):
    """An error in a script, a foreign script, an image from elsewhere and a wide element are all seen."""
    summary, records = RUNS["one_step"]()
    text = html_page(summary, records)
    broken = text.replace('"use strict";', '"use strict"; nothing.of();')
    assert in_a_phone(broken, tmp_path)[1]  # the policy does not know this script
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
    said = in_a_phone(broken.replace(policy, ""), tmp_path)[1]
    assert any("nothing is not defined" in line for line in said)
    foreign = text.replace(
        "<main>", '<main><img src="https://example.invalid/a.png"><script>document.title="taken"</script>'
    )
    found, said = in_a_phone(foreign, tmp_path)
    assert len(said) == 2
    assert found["title"] != "taken"
    wide = '<p style="width:400px">wide</p><svg style="overflow:visible"><text x="100%">beyond the edge</text></svg>'
    found, _ = in_a_phone(text.replace("<main>", f"<main>{wide}"), tmp_path)
    assert found["scroll"] > 360
    assert found["wide"] == ["P.", "text beyond the edge"]
