"""Claim: when the CPU trains with a thread per core, a worker beside those threads does not pay; with fewer it does.

The demo's network and photographs, without an accelerator: no worker and one worker, each with a thread per core and
with one thread less. All four take turns for several rounds; medians are given. The default of ``--photos`` is the
demo's photographs.
"""

import statistics
import sys
from pathlib import Path

import harness
import torch

from lightning_fastdata import ImageFolderDataModule

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from demo import quiet, train


def measure(folder: Path, threads: int, num_workers: int) -> dict[str, float]:
    """Two epochs, and what they waited."""
    torch.set_num_threads(threads)
    data = ImageFolderDataModule(folder, image_size=160, batch_size=32, num_workers=num_workers)
    data.setup("fit")
    summary = train(data, data.num_classes, 2, None).summary()
    return {"samples_per_s": summary.samples_per_s, "wait_share": summary.wait_share}


def main() -> None:
    parser = harness.parser(__doc__, photos=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet()
    folder = harness.photos_folder(arguments.photos, default=None)
    cores = torch.get_num_threads()
    cases = [(threads, workers) for threads in (cores, max(1, cores - 1)) for workers in (0, 1)]
    results = harness.interleaved(
        {f"{threads} threads, {workers} workers": lambda case=(threads, workers): measure(folder, *case)
         for threads, workers in cases},
        arguments.rounds,
    )  # fmt: skip
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()
    }
    rows = [[name, f"{run['wait_share']:.1%}", f"{run['samples_per_s']:.0f}"] for name, run in medians.items()]
    harness.print_table(f"Training on {cores} CPU cores", ["case", "time waiting", "samples/s"], rows)
    harness.write_json(arguments.json, {"medians": medians, "runs": results})


if __name__ == "__main__":
    main()
