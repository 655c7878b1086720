"""The field's words: names and labels that were replaced do not come back, and six words of prose stay away."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

import lightning_fastdata

ROOT = Path(__file__).parent.parent
PACKAGE = Path(lightning_fastdata.__file__).parent
ENTRIES = sorted(path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")]
)
PROGRAMS = [ROOT / "docs", ROOT / "examples", ROOT / "benchmarks"]
HISTORY = ("CHANGELOG.md", "decisions.md")
"""Pages that name what was replaced."""

REPLACED = {
    "Listening": "Instrumentation",
    "listening": "instrumentation",
    "Seam": "ProfilerTap",
    "seam": "profiler_tap",
    "Journal": "EventBuffer",
    "journal": "event_buffer",
    "MeasuredRun": "MonitorSession",
    "findings": "stats",
    "Ceiling": "SpeedupBound",
    "ceiling": "speedup_bound",
    "ceiling_of": "estimate_speedup_bound",
    "WholeSource": "BatchFetcher",
    "whole_source": "batch_fetcher",
    "whole_batches": "batched_fetch",
    "takes_seeds": "accepts_seeds",
    "draws_random_numbers": "uses_global_rng",
    "SampleView": "SeededDataset",
    "Ask": "BatchRequest",
    "Asks": "RequestSampler",
    "asks": "request_sampler",
    "Given": "ServedBatch",
    "Fetched": "LoadedBatch",
    "Delivered": "WorkerOutput",
    "Pass": "EpochPass",
    "Sameness": "Determinism",
    "sameness": "determinism",
    "nobody": "no_trainer",
    "as_it_is": "identity_collate",
    "HANDED_ON": "FORWARDED_ARGS",
    "go_on": "continue_after_change",
    "by_hand": "outside_trainer",
    "comes_round": "restarted_within_epoch",
    "wishes": "requested",
    "tight": "warnings",
    "flown": "run_preflight",
    "beside_other_pool": "concurrent_pool",
    "made_anew": "replaces_loader",
    "read_once": "single_pass",
    "ENDS": "FAILURE_MODES",
    "Caps": "ResourceCaps",
    "caps": "resource_caps",
    "OneThread": "LimitNativeThreads",
    "GiveBackCpus": "RestoreAffinity",
    "TellShare": "SetShard",
    "LeftOut": "SkippedSample",
    "MiddleCrop": "CenterCrop",
    "Draws": "SampleRng",
    "as_plain": "to_builtin",
    "Stretch": "WindowTimer",
    "stretch": "window_timer",
    "Looked": "WindowConsensus",
    "why_not": "reason_untunable",
    "let_workers_fill_up": "wait_for_prefetch",
    "normalise": "normalize",
    "summarise": "summarize",
    "anew": "the thing that is made again",
    "somebody": "who it is",
}
"""Names that nothing has any more, wherever they stand; a leading underscore does not count."""

SAYS_NOTHING = {
    # a word of everyday English: what is written instead, and the folders in which it was a name of ours
    "meet": ("attach_trainer", ""),
    "begin": ("start_pass", "loaders"),
    "explain": ("diagnose_crash", "loaders"),
    "tell": ("log_rank_zero", ""),
    "say": ("warn", ""),
    "keep": ("on_plan", "loaders"),
    "wish": ("the options that were asked for", ""),
    "apart": ("derive_seed", "loaders"),
    "now": ("epoch_pass", "loaders.resumable"),
    "whole": ("batch_fetch", "loaders"),
    "picture": ("image_grid", "datamodules"),
    "busy": ("contention", "callbacks.tuner"),
    "looked": ("window consensus", "callbacks.tuner"),
    "told": ("what was logged", ""),
    "found": ("the thing that was found", ""),
    "part": ("the thing that it is a part of", ""),
    "place": ("an index, a path or a position", ""),
}
"""Names that no function, class, parameter or annotated field has; as a local variable the word is harmless."""

OLD_CAUSES = {
    "too slow": "loader-bound",
    "handoff": "ipc-bound",
    "inline": "main-process loading",
    "slow rank": "straggler",
    "headroom": "over-provisioned",
}
"""Causes of an `Advice`. "handoff" and "inline" are also kinds of a wait, so these two count as causes only."""

OLD_LABELS = {
    "In next(), first batches included": "Total data wait (incl. first batches)",
    "Share of time waiting": "Data wait / training time",
    "Kinds of waiting": "Data wait by cause",
    "Handed over: was there": "Worker-to-main transfer",
    "Blocked: not there yet": "Stalled on workers",
    "Inline: no workers": "Loaded in the main process",
    "Change of epochs": "Epoch boundary",
    "The others lost": "Lost to the straggler",
    "Idle for want of data": "GPU starved",
    "Waits hidden by queued work": "Overlapped wait",
    "Ceiling with instant data": "Max speedup at zero data wait",
}

PROSE = re.compile(r"\b(told|nobody|somebody|anew|by\s+hand|as\s+it\s+is)\b", re.IGNORECASE)


def sources(entry):
    return [entry] if entry.suffix == ".py" else sorted(entry.rglob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def names_in(tree):
    """Every identifier that a program writes itself: name, line, whether it is defined there."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, True
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno, True
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno, True
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno, False
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno, False
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value.lineno, False


def old_names(text, module):
    for name, line, defined in sorted(set(names_in(ast.parse(text))), key=lambda name: name[1]):
        word = name.lstrip("_")
        if word in REPLACED:
            yield f"{line}: {name}, write {REPLACED[word]}"
        elif re.fullmatch(r"[A-Z]\w*(Tally|Facts)", word):
            yield f"{line}: {name}, write *Stats, *Info, *Context or *Spec"
        elif defined and word in SAYS_NOTHING:
            better, folder = SAYS_NOTHING[word]
            if f"{module}.".startswith(f"{folder}." if folder else ""):
                yield f"{line}: {name}, write {better}"


def strings_in(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def old_labels(text):
    """But for the keys of a table of names by which files of an older schema are read."""
    tree = ast.parse(text)
    keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
    for node in strings_in(tree):
        if id(node) in keys:
            continue
        for label, better in OLD_LABELS.items():
            if label in node.value:
                yield f'{node.lineno}: "{label}", write "{better}"'
        for cause in ("too slow", "slow rank", "headroom"):
            if node.value == cause or f'"{cause}"' in node.value:
                yield f'{node.lineno}: "{cause}", write "{OLD_CAUSES[cause]}"'
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Advice" and node.args:
            cause = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if cause in ("handoff", "inline"):
                yield f'{node.lineno}: cause "{cause}", write "{OLD_CAUSES[cause]}"'


def old_prose(text):
    """Of a program: in its strings and its comments."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for line, words in [*((node.lineno, node.value) for node in strings_in(ast.parse(text))), *comments]:
        for hit in PROSE.finditer(words):
            yield f"{line + words.count(chr(10), 0, hit.start())}: {hit.group()}"


def page_prose(text):
    for hit in PROSE.finditer(text):
        yield f"{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}"


def report(faults):
    faults = list(faults)
    assert not faults, "\n" + "\n".join(faults)


def each(paths, check):
    for path in paths:
        yield from (f"{path.relative_to(ROOT)}:{fault}" for fault in check(path))


def text_of(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_no_name_that_was_replaced(entry):
    """Whole identifiers: classes, functions, parameters, attributes, variables."""
    report(each(sources(entry), lambda path: old_names(text_of(path), module_of(path))))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_no_label_that_was_replaced(entry):
    """What a user reads in a table, on a page or in a run file."""
    report(each(sources(entry), lambda path: old_labels(text_of(path))))


@pytest.mark.parametrize("entry", [*ENTRIES, *PROGRAMS], ids=lambda entry: entry.name)
def test_prose_of_programs(entry):
    """Docstrings, comments and messages."""
    report(each(sources(entry), lambda path: old_prose(text_of(path))))


def test_prose_of_pages():
    """Markdown, the notebook, the configurations of the examples."""
    report(each(PAGES, lambda page: page_prose(text_of(page))))
    report(each(sorted(ROOT.glob("examples/*/*.yaml")), lambda page: page_prose(text_of(page))))
    cells = [cell for path in ROOT.glob("examples/*.ipynb") for cell in json.loads(text_of(path))["cells"]]
    report(fault for cell in cells for fault in page_prose("".join(cell["source"])))


def test_labels_of_pages():
    """A page shows the labels that the report has."""
    pages = [page for page in PAGES if page.name not in HISTORY]
    report(each(pages, lambda page: (label for label in OLD_LABELS if label in " ".join(text_of(page).split()))))


@pytest.mark.parametrize(
    ("planted", "module", "message"),
    [
        ("class Listening: ...", "report.text", "1: Listening, write Instrumentation"),
        ("def f(x):\n    return x._seam", "callbacks.monitor.session", "2: _seam, write profiler_tap"),
        ("f(keep=1, takes_seeds=2)", "loaders.build", "1: takes_seeds, write accepts_seeds"),
        ("class WaitTally: ...", "report.text", "1: WaitTally, write *Stats"),
        ("def f(*, keep): ...", "loaders.build", "1: keep, write on_plan"),
        ("def _tell(): ...", "results.advice", "1: _tell, write log_rank_zero"),
        ("async def f(told): ...", "results.advice", "1: told, write"),
    ],
)
def test_a_planted_name_is_found(planted, module, message):
    """The check can fail."""
    faults = list(old_names(planted, module))
    assert len(faults) == 1
    assert faults[0].startswith(message)


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("found = [part for part in parts]", "loaders.build"),  # local variables
        ("def f(keep, now): ...", "results.rank_merge"),  # not a name of ours there
        ("'the ceiling, whole_batches, Listening'", "report.text"),  # a string is no identifier
        ("def narrow(): ...", "loaders.resumable"),  # only whole identifiers
    ],
)
def test_ordinary_names_are_not_found(text, module):
    """The check can pass."""
    assert list(old_names(text, module)) == []


@pytest.mark.parametrize(
    "planted",
    [
        'Figure("Share of time waiting", 1)',
        'f"The others lost {n} s"',
        'if cause == "headroom": ...',
        '"""A cause: "slow rank" or "bursty"."""',
        'Advice("handoff", why, change)',
    ],
)
def test_a_planted_label_is_found(planted):
    """The check can fail."""
    assert len(list(old_labels(planted))) == 1


def test_a_kind_of_wait_is_no_cause():
    """Two kinds keep their names, "handoff" and "inline"."""
    assert list(old_labels('kind = "handoff"\nAdvice("ipc-bound", "inline", change)')) == []


def test_an_older_schema_may_be_read():
    """A table from its names to today's has them as keys."""
    assert list(old_labels('CAUSES_OF_SCHEMA_1 = {"too slow": "loader-bound"}')) == []
    assert len(list(old_labels('CAUSES = {"loader-bound": "too slow"}'))) == 1


def test_planted_prose_is_found():
    """In a docstring, a comment, a message; across lines; never within an identifier."""
    program = (
        '"""One.\n\nIt is left as it\nis."""\nraise E(f"{x}: Nobody told {y}")  # set by hand\nnobody = told_x = 1\n'
    )
    assert list(old_prose(program)) == ["3: as it\nis", "5: Nobody", "5: told", "5: by hand"]
    assert list(page_prose("`test_is_told`, retold,\nmade anew")) == ["2: anew"]
