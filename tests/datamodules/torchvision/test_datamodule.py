"""torchvision's datasets by name, on files in their own formats that are written here: nothing touches the network."""

import bz2
import csv
import errno
import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import VisionDataset

from lightning_fastdata import TorchvisionDataModule
from lightning_fastdata.datamodules.file_lock import file_lock
from lightning_fastdata.datamodules.images.normalize import IMAGENET_MEAN
from lightning_fastdata.datamodules.options import accepted_arguments
from lightning_fastdata.datamodules.torchvision import download_errors
from lightning_fastdata.datamodules.torchvision.download_errors import one_at_a_time
from lightning_fastdata.datamodules.torchvision.registry import DATASETS, REFUSED
from lightning_fastdata.errors import FastDataError

NAMED = {"EMNIST": {"split": "balanced"}}
"""dataset_kwargs without which a dataset cannot be made."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever asks for a page fails the test."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))


def module(name, root, **kwargs):
    made = TorchvisionDataModule(name, root, **{"batch_size": 4, "num_workers": 0, "download": False, **kwargs})
    made.setup("fit")
    return made


def refusal(call):
    with pytest.raises(FastDataError) as caught:
        call()
    assert caught.value.expected
    assert caught.value.fix
    return caught.value


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# Files in the datasets' own formats


def write_idx(path, array):
    """The format of MNIST: a magic number with the type and number of dimensions, the sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_mnist(root, name="MNIST", train=40, test=10):
    """The left half of each image is bright; labels count up."""
    for part, count in (("train", train), ("t10k", test)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, :, :14] = 255
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return root


@pytest.fixture
def mnist(tmp_path):
    return write_mnist(tmp_path / "data")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Five files of pickled dicts for training and one for testing, all images bright on the left."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, :, :16] = 255
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name in names:
        labels = list(range(10))
        (folder / name).write_bytes(pickle.dumps({"data": np.stack([image.ravel()] * 10), "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {number}" for number in range(10)]}))
    sums = [[name, md5(folder / name)] for name in names]
    cls = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", sums[:5])
    monkeypatch.setattr(cls, "test_list", sums[5:])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(folder / "batches.meta")})
    return tmp_path / "data"


@pytest.fixture
def eurosat(tmp_path, make_image):
    """Ten folders with 4 pictures each."""
    for number in range(40):
        make_image(tmp_path / "data/eurosat/2750" / f"land{number // 4}" / f"{number}.jpg", number, (64, 64))
    return tmp_path / "data"


@pytest.fixture
def sst(tmp_path, make_image):
    """Three splits of its own, two classes each."""
    for folder, count in (("train", 5), ("valid", 3), ("test", 2)):
        for number in range(count):
            for name in ("negative", "positive"):
                make_image(tmp_path / "data/rendered-sst2" / folder / name / f"{number}.png", number, (448, 448))
    return tmp_path / "data"


def write_faces(root, monkeypatch, name, rows):
    """The table of FER2013: a label, 48 x 48 numbers in one field, and what the image is for."""
    path = root / "fer2013" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    resources = torchvision.datasets.FER2013._RESOURCES
    known = {key: (file, md5(path) if file == name else sum_) for key, (file, sum_) in resources.items()}
    monkeypatch.setattr(torchvision.datasets.FER2013, "_RESOURCES", known)


PIXELS = " ".join(["128"] * 48 * 48)


# What is known before the download


@pytest.mark.parametrize(
    ("name", "kwargs", "classes", "shape", "mean"),
    [
        ("MNIST", {}, 10, (1, 28, 28), (0.1307,)),
        ("USPS", {}, 10, (1, 16, 16), (0.5,)),  # no known figure, gray
        ("STL10", {}, 10, (3, 96, 96), (0.4467, 0.4398, 0.4066)),
        ("Food101", {}, 101, (3, 224, 224), IMAGENET_MEAN),  # no known figure, color
        ("GTSRB", {}, 43, (3, 48, 48), (0.3403, 0.3121, 0.3214)),
        ("EMNIST", {"split": "balanced"}, 47, (1, 28, 28), (0.5,)),
        ("EMNIST", {"split": "letters"}, 27, (1, 28, 28), (0.5,)),
        ("OxfordIIITPet", {"target_types": "binary-category"}, 2, (3, 224, 224), IMAGENET_MEAN),
        ("FGVCAircraft", {}, 100, (3, 224, 224), IMAGENET_MEAN),
        ("FGVCAircraft", {"annotation_level": "family"}, 70, (3, 224, 224), IMAGENET_MEAN),
    ],
)
def test_known_before_the_download(name, kwargs, classes, shape, mean):
    """Enough to build a model, also where an argument of the dataset decides; nothing is read."""
    made = TorchvisionDataModule(name, "/nowhere", dataset_kwargs=kwargs)
    assert (made.num_classes, made.image_shape, made.mean) == (classes, shape, mean)
    assert len(made.std) == shape[0]


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_fits_torchvision(name, tmp_path, monkeypatch):
    """Arguments exist, and a split's values are known: an empty folder is not found, not a wrong value."""
    monkeypatch.setitem(__import__("sys").modules, "h5py", torch)  # PCAM looks for it first
    spec, cls = DATASETS[name], getattr(torchvision.datasets, name)
    arguments = accepted_arguments(cls)
    assert spec.option in {"", *arguments}
    if spec.download:
        assert "download" in arguments
    for asked in spec.splits.values():
        assert set(asked) <= arguments
        with pytest.raises((RuntimeError, FileNotFoundError)):
            cls(tmp_path, **asked, **NAMED.get(name, {}), **({"download": False} if spec.download else {}))
    for value in spec.choices:
        with pytest.raises((RuntimeError, FileNotFoundError)):
            cls(tmp_path, **spec.splits["train"], **{spec.option: value}, download=False)


@pytest.mark.parametrize("name", torchvision.datasets.__all__)
def test_every_name_of_torchvision_has_an_answer(name, tmp_path):
    """A spec, or a refusal with a way out; an absent dataset says what to do."""

    def used():
        TorchvisionDataModule(name, tmp_path, download=False, dataset_kwargs=NAMED.get(name)).setup("fit")

    error = refusal(used)
    assert name in error.what
    if name in DATASETS:
        assert DATASETS[name].page in error.fix or "pip install" in error.fix


def test_the_table_holds_no_name_twice():
    """A dataset is served or refused."""
    assert not set(DATASETS) & set(REFUSED)


# What one gets


def test_gray_digits(mnist):
    """One channel, the figures of MNIST, labels as integers, a tenth held out that answers for the whole."""
    made = module("MNIST", mnist)
    assert (len(made.train_dataset), len(made.val_dataset)) == (36, 4)
    images, labels = next(iter(made.val_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((4, 1, 28, 28), torch.float32, torch.int64)
    assert images.max() == pytest.approx((1 - 0.1307) / 0.3081, abs=1e-4)
    assert made.classes[3] == "3 - three"
    assert len(made.train_dataset.targets) == 36, "class weights computed from them fit the part"
    assert made.val_dataset.targets.tolist() == [made.val_dataset[number][1] for number in range(4)]
    assert made.train_dataset.dataset.data is made.val_dataset.dataset.data, "in memory once"


def test_color_photographs(cifar):
    """Three channels; class names from the files; the test images are the test split."""
    made = module("CIFAR10", cifar, val_split=10)
    made.setup("test")
    assert [len(getattr(made, f"{split}_dataset")) for split in ("train", "val", "test")] == [40, 10, 10]
    assert made.classes == [f"class {number}" for number in range(10)]
    images, _ = next(iter(made.test_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert images[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - mean) / std for mean, std in zip(made.mean, made.std, strict=True)], abs=1e-4
    )


def sides(dataset, looks=40):
    """For each look at the first image, whether its left half is the brighter one."""
    images = (dataset[0][0] for _ in range(looks))
    return {bool(image.chunk(2, -1)[0].mean() > image.chunk(2, -1)[1].mean()) for image in images}


def test_digits_are_shifted_but_never_mirrored(mnist):
    """A mirrored 2 is no 2."""
    made = module("MNIST", mnist)
    assert sides(made.train_dataset) == {True}
    assert len({made.train_dataset[0][0].numpy().tobytes() for _ in range(20)}) > 1


def test_photographs_are_mirrored_and_evaluation_never(cifar):
    """Held-out training images are evaluated, not augmented."""
    made = module("CIFAR10", cifar)
    assert sides(made.train_dataset) == {True, False}
    assert sides(made.val_dataset) == {True}
    assert torch.equal(made.val_dataset[0][0], made.val_dataset[0][0])


def test_images_are_shifted_by_an_eighth_at_most(cifar):
    """The bright half of 16 columns shows 12 to 16 of them, wherever the image was moved."""
    dataset = module("CIFAR10", cifar).train_dataset
    low = -0.4914 / 0.2470
    torch.manual_seed(0)
    columns = {int((dataset[0][0][0].amax(dim=0) > low + 0.1).sum()) for _ in range(60)}
    assert min(columns) == 12
    assert columns <= set(range(12, 17))


def test_another_image_size(cifar):
    """For a model that was trained on larger ones."""
    made = module("CIFAR10", cifar, image_size=64)
    assert made.image_shape == (3, 64, 64)
    assert made.train_dataset[0][0].shape == made.val_dataset[0][0].shape == (3, 64, 64)


def test_own_transforms_win(cifar):
    """They get the PIL image, and what they return is what the model gets."""
    made = module("CIFAR10", cifar, train_transform=lambda image: image.size, eval_transform=lambda image: image.mode)
    assert made.train_dataset[0][0] == (32, 32)
    assert made.val_dataset[0][0] == "RGB"


def test_the_plan_knows_the_size_of_a_sample(cifar):
    """Through the held-out view as well; own transforms make it unknown."""
    assert module("CIFAR10", cifar).train_dataset.sample_bytes == 3 * 32 * 32 * 4
    assert module("CIFAR10", cifar, train_transform=len).train_dataset.sample_bytes is None


def test_gray_photographs_among_color_ones(tmp_path, make_image):
    """Caltech101 has some; a batch needs them all alike."""
    folder = tmp_path / "caltech101" / "101_ObjectCategories"
    (folder / "BACKGROUND_Google").mkdir(parents=True)
    for number in range(101):
        mode = ("RGB", "L", "CMYK")[number % 3]
        make_image(folder / f"thing{number:03d}" / "image_0001.jpg", mode=mode, size=(12, 9))
    with pytest.warns(UserWarning, match="101 training images, of 8,677"):
        made = module("Caltech101", tmp_path, image_size=8, shuffle=False)
    images, _ = next(iter(made.train_dataloader()))
    assert images.shape == (4, 3, 8, 8)
    assert made.classes[0] == "thing000"


# Splits


def test_validation_images_of_its_own_are_used(sst):
    """Nothing is held out, and nothing is cut off the sentences."""
    with pytest.warns(UserWarning, match="training images"):
        made = module("RenderedSST2", sst, image_size=16)
    made.setup("test")
    assert [len(getattr(made, f"{split}_dataset")) for split in ("train", "val", "test")] == [10, 6, 4]
    assert torch.equal(made.train_dataset[0][0], made.train_dataset[0][0])


def test_held_out_parts_beside_images_for_them():
    """Two options that cannot go together, before anything is read."""
    error = refusal(lambda: TorchvisionDataModule("RenderedSST2", "/nowhere", val_split=0.1))
    assert "val_split=0.1, but RenderedSST2 has val images" in error.what
    assert "test_split" in refusal(lambda: TorchvisionDataModule("CIFAR10", "/nowhere", test_split=0.1)).what


@pytest.mark.filterwarnings("ignore:.*training images")
def test_an_undivided_dataset(eurosat):
    """Every image in one part, also after a setup for testing alone; unasked, there is no test split."""
    made = TorchvisionDataModule("EuroSAT", eurosat, download=False)
    made.setup()
    assert made.test_dataloader() == []
    for stages in (("fit", "test"), ("test", "fit"), (None,)):
        made = TorchvisionDataModule("EuroSAT", eurosat, val_split=0.2, test_split=4, download=False)
        for stage in stages:
            made.setup(stage)
        parts = [made.datasets("train"), made.datasets("val"), made.datasets("test")]
        assert [len(part) for part in parts] == [28, 8, 4]
        assert len({path for part in parts for path, _ in part.samples}) == 40


def test_training_on_everything(mnist):
    """val_split=0; the training data are torchvision's own dataset."""
    made = module("MNIST", mnist, val_split=0)
    assert isinstance(made.train_dataset, torchvision.datasets.MNIST)
    assert made.val_dataloader() == []


def test_the_split_depends_on_split_seed_alone(mnist):
    """Not on the run's seed or the batch size."""
    first = module("MNIST", mnist).val_dataset.indices
    assert module("MNIST", mnist, seed=9, batch_size=2).val_dataset.indices == first
    assert module("MNIST", mnist, split_seed=1).val_dataset.indices != first


def test_a_stage_reads_what_it_needs(mnist):
    """Testing does not load the training images, and a second setup loads nothing again."""
    made = TorchvisionDataModule("MNIST", mnist, download=False)
    made.setup("test")
    assert made.train_dataset is None
    made.setup("fit")
    first = made.train_dataset.dataset.data
    made.setup("validate")
    assert made.train_dataset.dataset.data is first


def test_data_of_the_users_own_is_kept(mnist):
    """Nothing is held out for a val_dataset that is there."""
    own = [(torch.zeros(1, 28, 28), 0)] * 3
    made = module("MNIST", mnist, val_dataset=own)
    assert made.val_dataset is own
    assert len(made.train_dataset) == 40


def test_training_data_of_the_users_own_are_what_is_cut(mnist):
    """Validating on MNIST's would be validating on images that you may train on."""
    own = TensorDataset(torch.zeros(10, 1, 28, 28), torch.zeros(10))
    made = module("MNIST", mnist, train_dataset=own)
    assert made.train_dataset is own
    assert made.val_dataloader() == []
    made = module("MNIST", mnist, train_dataset=own, val_split=0.2)
    assert (len(made.datasets("train")), len(made.datasets("val"))) == (8, 2)
    assert made.datasets("val").dataset is own


def test_faces_with_and_without_labels_for_testing(tmp_path, monkeypatch):
    """One form of the files has none: that is said, and there is no test split."""
    rows = [{"emotion": number % 7, "pixels": PIXELS} for number in range(10)]
    write_faces(tmp_path, monkeypatch, "train.csv", rows)
    write_faces(tmp_path, monkeypatch, "test.csv", [{"pixels": PIXELS}] * 3)
    made = module("FER2013", tmp_path)
    assert made.train_dataset[0][0].shape == (1, 48, 48)
    with pytest.warns(UserWarning, match="have no labels"):
        made.setup("test")
    assert made.test_dataset is None
    uses = ["Training"] * 8 + ["PublicTest"] * 2
    whole = [{**row, "Usage": use} for row, use in zip(rows, uses, strict=True)]
    write_faces(tmp_path, monkeypatch, "fer2013.csv", whole)
    made = module("FER2013", tmp_path)
    made.setup("test")
    assert (len(made.test_dataset), made.classes, made.num_classes) == (2, None, 7)


# Names and arguments that cannot be meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("cifar10", "CIFAR10"),
        ("CIFAR-100", "CIFAR100"),
        ("Fashion-MNIST", "FashionMNIST"),
        ("imagenet1k", "ImageNet"),
        ("Flowers", "Flowers102"),
        ("CIFAR", "CIFAR10"),
        ("Cars", "StanfordCars"),
        ("qqqqqq", "pass one of these names"),
        (torchvision.datasets.MNIST, '"MNIST"'),
    ],
)
def test_an_unknown_name_offers_the_nearest(said, meant):
    """Whether case, a hyphen or letters are wrong, or the class itself was passed; no guess where nothing is near."""
    error = refusal(lambda: TorchvisionDataModule(said, "/nowhere"))
    assert repr(said) in error.what
    assert meant in error.fix


@pytest.mark.parametrize(
    ("name", "words"),
    [("VOCDetection", "detection"), ("Kinetics", "videos"), ("LFWPairs", "pairs"), ("Sintel", "optical flow")],
)
def test_what_is_not_classification_is_refused(name, words):
    """What it is instead, and how to use it all the same."""
    error = refusal(lambda: TorchvisionDataModule(name, "/nowhere"))
    assert words in error.what
    assert f"FastDataModule(torchvision.datasets.{name}" in error.fix


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("CIFAR10", {"image_size": 0}, "image_size=0"),
        ("CIFAR10", {"download": "yes"}, "download='yes'"),
        ("CIFAR10", {"dataset_kwargs": {"train": False}}, "'train'"),
        ("DTD", {"dataset_kwargs": {"partitions": 2}}, "'partitions'"),
        ("EMNIST", {}, "no split"),
        ("EMNIST", {"dataset_kwargs": {"split": "train"}}, "split='train'"),
        ("OxfordIIITPet", {"dataset_kwargs": {"target_types": "segmentation"}}, "segmentation"),
        ("Caltech101", {"dataset_kwargs": {"target_type": ["category", "annotation"]}}, "annotation"),
    ],
)
def test_arguments_that_cannot_be_meant(name, kwargs, words):
    """When the module is made."""
    error = refusal(lambda: TorchvisionDataModule(name, "/nowhere", **kwargs))
    assert words in error.what
    assert name != "DTD" or "partition?" in error.fix, "the nearest of those that the dataset takes"


def test_a_value_that_torchvision_refuses(tmp_path):
    """Its words, and where to correct it."""
    made = TorchvisionDataModule("FGVCAircraft", tmp_path, dataset_kwargs={"annotation_level": "variant"})
    made.dataset_kwargs["annotation_level"] = "wing"
    error = refusal(made.prepare_data)
    assert "wing" in error.what
    assert "dataset_kwargs" in error.fix


# The download


def downloads(monkeypatch, source, action):
    """Replace the download of a torchvision module; returns the calls."""
    calls = []

    def download(url, *args, **kwargs):
        calls.append(url)
        action()

    monkeypatch.setattr(f"torchvision.datasets.{source}", download)
    return calls


def fail(error):
    def raise_it():
        raise error

    return raise_it


def test_prepare_data_downloads_once_and_keeps_no_state(tmp_path, monkeypatch):
    """One process at a time; what is there is not downloaded again, and no lock file stays behind."""

    def write():
        with pytest.raises(FastDataError, match="still locked"), file_lock(tmp_path / "data" / ".MNIST.lock", 0.01):
            pass
        write_mnist(tmp_path / "data")

    calls = downloads(monkeypatch, "mnist.download_and_extract_archive", write)
    made = TorchvisionDataModule("MNIST", tmp_path / "data")
    made.prepare_data()
    assert made.prepare_data_per_node  # one rank of each node
    assert len(calls) == 4
    assert made.train_dataset is None
    made.prepare_data()
    assert len(calls) == 4
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_a_wait_for_the_download_of_another_process_ends(tmp_path, monkeypatch):
    """With its name; a folder that cannot be written needs no lock."""
    monkeypatch.setattr(download_errors, "DOWNLOAD_WAIT_S", 0.01)
    with one_at_a_time(str(tmp_path), "MNIST"), pytest.raises(FastDataError, match="by process"):
        TorchvisionDataModule("MNIST", tmp_path).prepare_data()
    (tmp_path / "file").write_text("")
    with one_at_a_time(str(tmp_path / "file" / "data"), "MNIST"):
        pass


def test_a_split_of_the_users_own_is_not_downloaded(tmp_path, monkeypatch):
    """House numbers to test on, from elsewhere."""
    calls = downloads(monkeypatch, "svhn.download_url", lambda: None)
    own = [(torch.zeros(3, 32, 32), 0)]
    refusal(TorchvisionDataModule("SVHN", tmp_path, train_dataset=own).prepare_data)
    assert [Path(url).name for url in calls] == ["test_32x32.mat"]


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    """Neither with download=False nor in setup, also by datasets that would of themselves."""
    calls = downloads(monkeypatch, "semeion.download_url", lambda: None)
    made = TorchvisionDataModule("SEMEION", tmp_path, download=False)
    made.prepare_data()
    refusal(made.setup)
    refusal(TorchvisionDataModule("SEMEION", tmp_path).setup)
    assert calls == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (URLError("Name or service not known"), "Name or service not known"),
        (EOFError("Compressed file ended"), "Compressed file ended"),
        (RuntimeError("Error downloading x:\nno route"), "Error downloading x: no route"),  # what each mirror said
    ],
)
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, error, words):
    """Dataset, folder and cause; another network, the files from their page, or download=False."""
    downloads(monkeypatch, "cifar.download_and_extract_archive", fail(error))
    refused = refusal(TorchvisionDataModule("CIFAR10", tmp_path).prepare_data)
    assert refused.what.startswith(f"CIFAR10 could not be downloaded into {tmp_path}: ")
    assert words in refused.what
    assert str(tmp_path / "cifar-10-batches-py") in refused.expected
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in refused.fix
    assert "download=False" in refused.fix


def test_a_full_disk_is_not_the_networks_fault(tmp_path, monkeypatch):
    """Another folder, then; as where root is a file."""
    downloads(monkeypatch, "cifar.download_and_extract_archive", fail(OSError(errno.ENOSPC, "No space left")))
    assert "make room" in refusal(TorchvisionDataModule("CIFAR10", tmp_path).prepare_data).fix
    (tmp_path / "data").write_text("")
    assert "another root" in refusal(TorchvisionDataModule("MNIST", tmp_path / "data").prepare_data).fix


@pytest.mark.parametrize("hidden", ["scipy.io", "scipy"])
def test_a_missing_package(tmp_path, monkeypatch, hidden):
    """The line that installs it."""
    (tmp_path / "train_32x32.mat").write_text("")
    sums = {split: ["", "train_32x32.mat", md5(tmp_path / "train_32x32.mat")] for split in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", sums)
    monkeypatch.setitem(__import__("sys").modules, hidden, None)
    error = refusal(lambda: module("SVHN", tmp_path))
    assert error.fix == "pip install scipy"
    assert refusal(lambda: module("StanfordCars", tmp_path)).fix == "pip install scipy"


def test_a_dataset_that_cannot_be_downloaded(tmp_path):
    """prepare_data leaves it alone; setup says where to get it and where to put it."""
    made = TorchvisionDataModule("StanfordCars", tmp_path)
    made.prepare_data()
    pytest.importorskip("scipy")
    error = refusal(made.setup)
    assert "cannot download it" in error.fix
    assert "issues/7545" in error.fix
    assert str(tmp_path / "stanford_cars" / "devkit") in error.expected


@pytest.mark.parametrize("download", [True, False])
def test_imagenet_is_unpacked_in_prepare_data(tmp_path, download):
    """By one process, whatever download says; the archives have to be there."""
    error = refusal(TorchvisionDataModule("ImageNet", tmp_path, download=download).prepare_data)
    assert "ILSVRC2012_devkit_t12.tar.gz" in error.what
    assert "image-net.org" in error.fix


def test_setup_without_prepare_data(tmp_path):
    """As in a loop of one's own that forgot it."""
    assert "prepare_data()" in refusal(TorchvisionDataModule("CIFAR10", tmp_path).setup).fix


def test_files_that_were_cut_short(tmp_path):
    """They are there, but not whole."""
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"1 " + b" ".join(b"1:0" for _ in range(256)))[:20])
    error = refusal(lambda: module("USPS", tmp_path))
    assert "cannot be read" in error.what
    assert str(tmp_path / "usps.bz2") in error.expected
    assert "downloaded again" in error.fix


def test_a_folder_that_an_interrupted_download_left(eurosat):
    """To torchvision it is whole: a missing class is an error, missing images a warning."""
    with pytest.warns(UserWarning, match=r"40 training images, of 27,000.*2750"):
        module("EuroSAT", eurosat)
    for path in (eurosat / "eurosat/2750/land9").iterdir():
        path.unlink()
    (eurosat / "eurosat/2750/land9").rmdir()
    error = refusal(lambda: module("EuroSAT", eurosat))
    assert "9 classes" in error.what
    assert "interrupted" in error.fix


# Datasets that are not in the table


class Toy(VisionDataset):
    """Written like torchvision's own."""

    parts = ("train", "test")

    def __init__(self, root, split="train", transform=None, target_transform=None, download=False):
        super().__init__(root, transform=transform, target_transform=target_transform)
        if split not in self.parts:
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.classes = ["a", "b"]
        self.downloaded = download

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.transforms(Image.new("L", (20, 10)), index % 2)


class Undivided(Toy):
    def __init__(self, root, transform=None):
        super().__init__(root, transform=transform)


class TrainOnly(Toy):
    parts = ("train",)


class Flagged(Toy):
    def __init__(self, root, train=True, transform=None):
        super().__init__(root, "train" if train else "test", transform=transform)


@pytest.fixture
def toys(monkeypatch):
    for cls in (Toy, Undivided, TrainOnly, Flagged):
        monkeypatch.setattr(torchvision.datasets, cls.__name__, cls, raising=False)


@pytest.mark.parametrize(("name", "test"), [("Toy", 10), ("Flagged", 10), ("TrainOnly", None)])
def test_a_dataset_whose_signature_says_enough(toys, name, test):
    """Treated as photographs; the number of classes is known from its names, after setup."""
    made = TorchvisionDataModule(name, "/nowhere", image_size=8, download=False)
    assert "not known" in refusal(lambda: made.num_classes).what
    made.setup()
    assert made.num_classes == 2
    assert made.train_dataset[0][0].shape == made.val_dataset[0][0].shape == (3, 8, 8)
    assert (made.test_dataset and len(made.test_dataset)) == test


def test_a_dataset_whose_signature_does_not(toys):
    """Says how to use it all the same."""
    error = refusal(lambda: TorchvisionDataModule("Undivided", "/nowhere"))
    assert "FastDataModule(torchvision.datasets.Undivided" in error.fix


# The module itself


def test_hyperparameters_are_plain_and_rebuild_the_module():
    """Options as given, no objects."""
    kwargs = {"split": "balanced", "target_transform": int}
    made = TorchvisionDataModule("EMNIST", "/nowhere", train_transform=len, dataset_kwargs=kwargs, deterministic=False)
    assert made.hparams["val_split"] is None
    assert made.hparams["num_workers"] == "auto"
    assert made.hparams["dataset_kwargs"] == {"split": "balanced"}
    assert "train_transform" not in made.hparams
    again = TorchvisionDataModule(**made.hparams)
    assert (again.name, again.root, again.val_split, again.deterministic) == ("EMNIST", "/nowhere", 0.1, False)


def test_classes_before_setup_say_what_to_do():
    """They are not known yet."""
    with pytest.raises(FastDataError, match="setup"):
        _ = TorchvisionDataModule("MNIST", "/nowhere").classes


def test_class_names_are_texts(tmp_path, make_image):
    """Imagenette has several for each class; they become one."""
    for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
        for split in ("train", "val"):
            make_image(tmp_path / "imagenette2-160" / split / wnid / "1.jpeg")
    with pytest.warns(UserWarning, match="imagenette2-160"):
        made = module("Imagenette", tmp_path, dataset_kwargs={"size": "160px"})
    assert made.classes[0] == "tench, Tinca tinca"


def test_it_pickles_before_and_after_setup(mnist):
    """ddp_spawn carries it to the ranks."""
    for made in (TorchvisionDataModule("MNIST", mnist, download=False), module("MNIST", mnist)):
        again = pickle.loads(pickle.dumps(made))
        again.setup("fit")
        assert len(again.train_dataset) == 36
        assert again.train_dataset[0][0].shape == (1, 28, 28)
