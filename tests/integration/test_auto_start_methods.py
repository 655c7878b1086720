"""What "auto" may do, under each start method: a dataset that is right without workers is right with the pack."""

import json
from pathlib import Path

import pytest
from programs import run

pytestmark = pytest.mark.slow

SLOW = (
    *("foreign loader, tuned", "tuned", "grows", "lent", "queue with workers", "large", "gradient", "cache", "closure"),
    *("a global set before", "queue"),
)
"""Rows for which spawning changes nothing that a fork server does not: a worker's start takes two seconds there."""
RIGHT = {
    "a global": [[0], [1]],
    "a global set before": [[1]],
    "set between epochs": [[0], [1]],
    "a class attribute": [[5]],
    "asks the Trainer": [[0], [1]],
    "grows": [False, True],
    "foreign loader, tuned": [[0], [1], [2], [3]],
    "tuned": [[0], [1], [2], [3]],
    "queue": [[2], [2]],
    "queue with workers": [[2], [2]],
    "stream": 0,
    "counts": 4,
    "cache": 32,
    "closure": [16],
    "gradient": [16],
    "breakpoint": 1,
    "pool": [16],
    "native library": [16],
    "main guard": [16],
    "open file": [[1]],
    "worker_init_fn": [[*range(1000, 1016)]],
    "lent": [24],
}
"""What plain Lightning's default, no workers, makes of each row; the first answer."""
WITHOUT_WORKERS = (
    *("asks the Trainer", "queue", "queue with workers", "stream", "counts", "cache", "closure", "gradient"),
    *("breakpoint", "pool", "native library", "open file"),
)


@pytest.fixture(
    scope="module", params=["fork", "forkserver", "spawn", pytest.param("spawn, all", marks=pytest.mark.full)]
)
def answers(request):
    """All rows under one start method; a worker's start takes two seconds under spawn."""
    method, _, everything = request.param.partition(",")
    left_out = SLOW if method == "spawn" and not everything else ()
    program = Path(__file__).with_name("auto_cases.py")
    done = run(program, method, *left_out, LIGHTNING_FASTDATA_NUM_CPUS="2")
    assert done.returncode == 0, done.stderr
    return method, json.loads(done.stdout.splitlines()[-1])


def test_every_dataset_gives_what_it_gives_without_workers(answers):
    """No row is wrong, hangs or dies."""
    _, given = answers
    simple = ("exception", "policy", "large")
    found = {name: answer[0] if isinstance(answer, list) else answer for name, answer in given.items()}
    assert {name: found[name] for name in found if name not in simple} == {
        name: right for name, right in RIGHT.items() if name in found
    }
    assert given["exception"] == ["NoMoreError", 429]
    assert given["policy"] <= 1
    assert "dataset.texts holds 400,000 Python objects" in given.get(
        "large", "dataset.texts holds 400,000 Python objects"
    )


def test_what_must_stay_has_no_workers_and_a_reason(answers):
    """Where workers would change something; where they change nothing they are taken."""
    method, given = answers
    workers = {name: answer[1:] for name, answer in given.items() if isinstance(answer, list) and len(answer) == 3}
    assert {name: workers[name][0] for name in WITHOUT_WORKERS if name in workers and workers[name][0]} == {}
    assert workers["set between epochs"][0] == 1
    # A worker of these start methods imports the dataset's module anew, and cannot import what stands in a function.
    inherited = int(method == "fork")
    assert [workers[name][0] for name in ("a class attribute", "main guard")] == [inherited] * 2
    assert inherited or "ClassLevel).level was set by this program" in workers["a class attribute"][1]
