"""Other loaders of JPEG folders for image_folder.py: pip install -e ".[bench]".

Each takes a folder of class folders, or converts it first, and yields (images, labels) in batches: a random resized
crop, a flip, one pass over the images in an order of its own. Each lives in a process of its own, so one that crashes,
hangs or leaves threads behind breaks nothing but itself.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

BATCH, SIZE = 64, 224
PATIENCE_S = 60.0  # for an answer of a peer
Measure = Callable[[Any], tuple[float, float]]


@dataclass(frozen=True)
class Peer:
    """A loader to compare with."""

    name: str
    package: str  # what has to be importable
    gives: str  # what its batches are
    make: Callable[[Path, int], Any]  # (folder, workers or threads) -> an iterable of batches, a pass each time
    convert: Callable[[Path, Path], Path] | None  # (class folders, empty folder) -> what `make` reads
    settings: Callable[[int], Sequence[int]]  # usable CPUs -> workers or threads to try


def augment() -> Any:
    """What torchvision does for loaders that leave the transform to their user, as bytes."""
    return v2.Compose([v2.ToImage(), v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])


def labeled(folder: Path) -> list[tuple[str, int]]:
    return list(ImageFolder(folder).samples)


# LitData: chunks of the JPEGs' own bytes, decoded by torchvision.


def _litdata_sample(sample: tuple[str, int]) -> Any:
    from litdata.streaming.serializers import Jpeg

    return {"image": Jpeg(path=sample[0]), "label": sample[1]}


class _LitDataAugment:
    def __init__(self) -> None:
        self.steps = augment()

    def __call__(self, sample: Any) -> Any:
        return self.steps(sample["image"]), sample["label"]


def convert_litdata(folder: Path, target: Path) -> Path:
    import litdata

    cpus = len(os.sched_getaffinity(0))
    litdata.optimize(_litdata_sample, labeled(folder), str(target), chunk_bytes="16MB", num_workers=cpus, verbose=False)
    return target


def litdata_loader(target: Path, workers: int) -> Any:
    import litdata

    data = litdata.StreamingDataset(str(target), shuffle=True, transform=_LitDataAugment())
    return litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, persistent_workers=True)


# WebDataset: tar files of the JPEGs' own bytes, decoded by Pillow.


def convert_webdataset(folder: Path, target: Path) -> Path:
    import webdataset as wds

    samples = labeled(folder)
    random.Random(0).shuffle(samples)  # a tar is read in its order
    with wds.ShardWriter(str(target / "%05d.tar"), maxcount=96, verbose=0) as writer:
        for number, (path, label) in enumerate(samples):
            writer.write({"__key__": f"{number:08d}", "jpg": Path(path).read_bytes(), "cls": label})
    return target


def webdataset_loader(target: Path, workers: int) -> Any:
    import webdataset as wds

    shards = sorted(map(str, target.glob("*.tar")))
    data = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(256).decode("pilrgb")
    data = data.to_tuple("jpg", "cls").map_tuple(augment(), int).batched(BATCH)
    return wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=True)


# SPDL: threads; FFmpeg decodes, cuts, resizes and flips. It looks for FFmpeg's libraries on the system.


class SpdlLoader:
    def __init__(self, folder: Path, threads: int) -> None:
        self.samples, self.threads = labeled(folder), threads
        self.crop = v2.RandomResizedCrop(SIZE)

    def one(self, sample: tuple[str, int]) -> tuple[Any, int]:
        import spdl.io

        packets = spdl.io.demux_image(sample[0])
        box = self.crop.make_params([torch.empty(3, packets.height, packets.width, device="meta")])
        steps = f"crop={box['width']}:{box['height']}:{box['left']}:{box['top']},scale={SIZE}:{SIZE}:flags=bilinear"
        steps += (",hflip" if random.random() < 0.5 else "") + ",format=pix_fmts=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=steps), sample[1]

    def batch(self, loaded: list[tuple[Any, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import spdl.io

        images = spdl.io.to_torch(spdl.io.convert_frames([frames for frames, _ in loaded]))
        return images.permute(0, 3, 1, 2), torch.tensor([label for _, label in loaded])

    def __iter__(self) -> Iterator[Any]:
        from spdl.pipeline import PipelineBuilder

        order = random.sample(self.samples, len(self.samples))
        builder = PipelineBuilder().add_source(order).pipe(self.one, concurrency=self.threads).aggregate(BATCH)
        pipeline = builder.pipe(self.batch).add_sink(3).build(num_threads=self.threads + 1)
        with pipeline.auto_stop():
            yield from pipeline


# DALI on the CPU: threads; decodes the crop alone.


class DaliLoader:
    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads, self.passes = folder, threads, 0
        self.iterator: Any = None

    def prepare(self) -> None:
        """A pipeline for one pass: a pass of an older one would begin with batches that it has in store."""
        from nvidia.dali import fn, pipeline_def
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        self.passes += 1

        @pipeline_def(batch_size=BATCH, num_threads=self.threads, device_id=None, seed=self.passes)
        def pipe() -> Any:
            data, labels = fn.readers.file(file_root=str(self.folder), random_shuffle=True, name="files")
            images = fn.resize(fn.decoders.image_random_crop(data), size=(SIZE, SIZE))
            return fn.transpose(fn.flip(images, horizontal=fn.random.coin_flip()), perm=[2, 0, 1]), labels

        made = pipe()
        made.build()
        self.iterator = DALIGenericIterator(
            [made], ["images", "labels"], reader_name="files", prepare_first_batch=False, auto_reset=False
        )

    def __iter__(self) -> Iterator[Any]:
        for (batch,) in self.iterator:
            yield batch["images"], batch["labels"]


# turboloader: threads, out of a tar; decodes the crop alone, normalizes in the same pass. Labels follow from indices.


def convert_turboloader(folder: Path, target: Path) -> Path:
    import turboloader

    with contextlib.redirect_stdout(None):
        turboloader.convert_imagefolder(str(folder), str(target / "images.tar"))
    return target / "images.tar"


class TurboLoader:
    def __init__(self, tar: Path, workers: int) -> None:
        import turboloader

        options: dict[str, Any] = {"image_size": SIZE, "train_aug": True, "antialias": True, "shuffle": True}
        options |= {"transform": turboloader.ImageNetNormalize(), "output_format": "pytorch"}
        self.loader, self.passes = turboloader.DataLoader(str(tar), BATCH, workers, **options), 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        self.loader.set_epoch(self.passes)
        for images, facts in self.loader:
            yield torch.from_numpy(images), facts["indices"]


def _workers(cpus: int) -> Sequence[int]:
    return (cpus, cpus + 1)


def _threads(cpus: int) -> Sequence[int]:
    return (cpus, 2 * cpus)


def _pools(cpus: int) -> Sequence[int]:
    return (1, cpus)  # it has one pool of threads for all cores, whatever the argument


PEERS = (
    Peer("LitData", "litdata", "uint8", litdata_loader, convert_litdata, _workers),
    Peer("WebDataset", "webdataset", "uint8", webdataset_loader, convert_webdataset, _workers),
    Peer("SPDL", "spdl.io", "uint8", SpdlLoader, None, _threads),
    Peer("DALI, CPU", "nvidia.dali", "uint8", DaliLoader, None, _threads),
    Peer("turboloader", "turboloader", "normalized floats", TurboLoader, convert_turboloader, _pools),
)


@dataclass(frozen=True)
class Ready:
    """A peer's best setting, and what it cost to come so far."""

    setting: int  # workers or threads (count)
    convert_s: float  # seconds; 0 where nothing is converted


def _serve(pipe: Connection, peer: Peer, folder: Path, target: Path, measure: Measure) -> None:
    """The peer's process: finds the best setting, says so, then measures a pass for every word it gets."""
    warnings.filterwarnings("ignore")
    try:
        started = time.perf_counter()
        source = peer.convert(folder, target) if peer.convert else folder
        convert_s = time.perf_counter() - started if peer.convert else 0.0
        loaders, rates = {}, {}  # all are kept: LitData waits for ever where a loader with living workers is freed
        for setting in peer.settings(len(os.sched_getaffinity(0))):
            loaders[setting] = peer.make(source, setting)
            measure(loaders[setting])
            rates[setting] = measure(loaders[setting])[0]
        best = max(rates, key=lambda one: rates[one])
        pipe.send(Ready(best, convert_s))
        while pipe.recv():
            pipe.send(measure(loaders[best]))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {str(error)[:300]}")


class Served:
    """A peer in its process; `ready` is a string where it does not work."""

    def __init__(self, peer: Peer, folder: Path, target: Path, measure: Measure) -> None:
        target.mkdir(parents=True)
        context = multiprocessing.get_context("spawn")
        self.peer = peer
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, peer, folder, target, measure))
        self.process.start()
        theirs.close()
        self.ready: Ready | str = self._answer()

    def _answer(self) -> Any:
        if not self.pipe.poll(PATIENCE_S):
            return f"no answer in {PATIENCE_S:.0f} s"
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return f"its process ended with {self.process.exitcode}"

    def measure(self) -> tuple[float, float] | None:
        """A pass; None where the peer broke."""
        with contextlib.suppress(OSError):
            self.pipe.send(True)
            answer = self._answer()
            if isinstance(answer, tuple):
                return answer
            print(f"{self.peer.name}: {answer}", flush=True)
        return None

    def close(self) -> None:
        """Ends the process and whatever it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            with contextlib.suppress(OSError):
                self.pipe.send(False)
            self.process.join(3)
            for child in (*children, self.process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.join()


def served(folder: Path, target: Path, measure: Measure) -> Iterator[Served]:
    """Every peer that is installed and works; a line about every other."""
    for peer in PEERS:
        if not _importable(peer.package):
            print(f"{peer.name}: left out, not installed (pip install -e '.[bench]')", flush=True)
            continue
        one = Served(peer, folder, target / peer.package, measure)
        if isinstance(one.ready, Ready):
            print(
                f"{peer.name}: {one.ready.setting} workers or threads, {one.ready.convert_s:.1f} s to convert",
                flush=True,
            )
            yield one
        else:
            print(f"{peer.name}: left out, {one.ready}", flush=True)
            one.close()


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent
        return False
