"""What is known of torchvision's classification datasets before a file of them is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["DATASETS", "REFUSED", "TRAIN_FLAG", "TWO_SPLITS", "DatasetSpec"]

Values = tuple[float, ...]
Splits = Mapping[str, Mapping[str, Any]]

TRAIN_FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
TWO_SPLITS: Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE_SPLITS: Splits = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
TRAIN_VAL: Splits = {"train": {"split": "train"}, "val": {"split": "val"}}
UNDIVIDED: Splits = {"train": {}}


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of torchvision.

    ``mean`` and ``std`` are figures over the pixels of the training images, as torchvision's users have them: MNIST's
    from the PyTorch examples, the others from what published training code agrees on to the last digit. Where such
    code disagrees (EuroSAT, EMNIST, USPS, FER2013) none are given.
    """

    num_classes: int | None = None
    """Classes (count): a label is in [0, num_classes). None = it depends on a choice, or is not known."""
    image_size: tuple[int, int] | None = None
    """Height and width of the files' images (pixels); None where they vary."""
    default_size: int | None = None
    """Height and width of a sample unless the user says otherwise (pixels); None = ``image_size``, else 224."""
    channels: int = 3
    """1 for grayscale, 3 for color."""
    mean: Values | None = None
    """Mean of each channel, of values in [0, 1]; None where there is no agreed figure."""
    std: Values | None = None
    """Standard deviation of each channel, likewise."""
    augment: Literal["shift", "crop", "none"] = "crop"
    """What does not change the class: shifting by an eighth, a crop of random size, or neither."""
    flip: bool = True
    """Whether a mirrored image has the same class; not so for digits, letters and signs."""
    splits: Splits = field(default_factory=lambda: TWO_SPLITS)
    """Arguments that ask for a split, by its name here: "train", "val", "test"."""
    guessed: bool = False
    """True where ``splits`` was read off the signature, so that "test" may turn out not to exist."""
    option: str = ""
    """Argument on which the spec depends, if there is one."""
    choices: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)
    """Its values that give one class per image, each with the fields that differ."""
    names: str | None = "classes"
    """Attribute of the dataset with the names of its classes; it need not be there."""
    download: bool = True
    """Whether torchvision can download it."""
    unpacks: bool = False
    """Whether making the dataset unpacks archives, which one process alone must do."""
    unlabelled_test: bool = False
    """Whether some forms of its files hold test images without labels."""
    listed: int | None = None
    """Training images (count), where the dataset is what lies in a folder, so that an interrupted download shows."""
    files: tuple[str, ...] = ()
    """What lies below ``root`` when the dataset is there."""
    page: str = ""
    """Where you can get it yourself."""
    note: str = ""
    """What else to know when doing so."""


IDX = ("raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte", "raw/t10k-images-idx3-ubyte")


def _digits(folder: str, page: str, **more: Any) -> DatasetSpec:
    """Datasets in the format of MNIST: characters of 28 x 28 pixels, gray, not to be mirrored."""
    common: dict[str, Any] = {"num_classes": 10, "image_size": (28, 28), "channels": 1, "splits": TRAIN_FLAG}
    common |= {"augment": "shift", "flip": False, "files": tuple(f"{folder}/{name}" for name in IDX), "page": page}
    return DatasetSpec(**{**common, **more})


def _cifar(num_classes: int, mean: Values, std: Values, folder: str) -> DatasetSpec:
    return DatasetSpec(
        num_classes,
        (32, 32),
        mean=mean,
        std=std,
        augment="shift",
        splits=TRAIN_FLAG,
        files=(folder,),
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
    )


EMNIST_CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 27, "digits": 10, "mnist": 10}
"""The labels of "letters" begin with 1, for "a"; torchvision counts a class 0 of its own, "N/A", without images."""
INATURALIST_LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")

DATASETS: Mapping[str, DatasetSpec] = {
    "MNIST": _digits("MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", mean=(0.1307,), std=(0.3081,)),
    "FashionMNIST": _digits(  # its shoes all point to the left
        "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist", mean=(0.2860,), std=(0.3530,)
    ),
    "KMNIST": _digits("KMNIST", "https://github.com/rois-codh/kmnist", mean=(0.1918,), std=(0.3483,)),
    "QMNIST": _digits(  # its training digits are those of MNIST
        "QMNIST",
        "https://github.com/facebookresearch/qmnist",
        mean=(0.1307,),
        std=(0.3081,),
        splits={"train": {"what": "train"}, "test": {"what": "test"}},
        option="compat",
        choices={True: {}},
        files=("QMNIST/raw/qmnist-train-images-idx3-ubyte", "QMNIST/raw/qmnist-train-labels-idx2-int"),
    ),
    "EMNIST": _digits(
        "EMNIST",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        num_classes=None,
        option="split",
        choices={name: {"num_classes": count} for name, count in EMNIST_CLASSES.items()},
        files=("EMNIST/raw",),
    ),
    "USPS": _digits(
        "USPS",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        image_size=(16, 16),
        files=("usps.bz2", "usps.t.bz2"),
    ),
    "SEMEION": _digits(
        "SEMEION",
        "https://archive.ics.uci.edu/dataset/178/semeion+handwritten+digit",
        image_size=(16, 16),
        splits=UNDIVIDED,
        files=("semeion.data",),
    ),
    "CIFAR10": _cifar(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "cifar-10-batches-py"),
    "CIFAR100": _cifar(100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "cifar-100-python"),
    "SVHN": DatasetSpec(
        10,
        (32, 32),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        augment="shift",
        flip=False,
        files=("train_32x32.mat", "test_32x32.mat"),
        page="http://ufldl.stanford.edu/housenumbers/",
    ),
    "STL10": DatasetSpec(
        10,
        (96, 96),
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        augment="shift",
        files=("stl10_binary",),
        page="https://cs.stanford.edu/~acoates/stl10/",
    ),
    "GTSRB": DatasetSpec(  # 15 to 250 pixels; 48 are what the first entry better than people took (Ciresan, 2012)
        43,
        default_size=48,
        mean=(0.3403, 0.3121, 0.3214),
        std=(0.2724, 0.2608, 0.2669),
        augment="shift",
        flip=False,
        listed=26_640,
        files=("gtsrb/GTSRB",),
        page="https://benchmark.ini.rub.de/",
    ),
    "FER2013": DatasetSpec(
        7,
        (48, 48),
        channels=1,
        augment="shift",
        download=False,
        unlabelled_test=True,
        files=("fer2013/fer2013.csv",),
        page="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
    ),
    "EuroSAT": DatasetSpec(
        10,
        (64, 64),
        augment="shift",
        splits=UNDIVIDED,
        listed=27_000,
        files=("eurosat/2750",),
        page="https://github.com/phelber/eurosat",
    ),
    "PCAM": DatasetSpec(  # the class is that of the middle, which a crop could leave out
        2,
        (96, 96),
        augment="none",
        splits=THREE_SPLITS,
        files=("pcam",),
        page="https://github.com/basveeling/pcam",
    ),
    "RenderedSST2": DatasetSpec(  # sentences as pictures: nothing may be cut off
        2,
        (448, 448),
        default_size=224,
        augment="none",
        flip=False,
        splits=THREE_SPLITS,
        listed=6_920,
        files=("rendered-sst2",),
        page="https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
    ),
    "CLEVRClassification": DatasetSpec(  # labels are the objects in the picture (3 to 10); those of "test" are secret
        11,
        (320, 480),
        default_size=224,
        augment="none",
        splits=TRAIN_VAL,
        files=("clevr/CLEVR_v1.0",),
        page="https://cs.stanford.edu/people/jcjohns/clevr/",
    ),
    "Food101": DatasetSpec(
        101, files=("food-101",), page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    ),
    "Flowers102": DatasetSpec(
        102, splits=THREE_SPLITS, files=("flowers-102",), page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    ),
    "OxfordIIITPet": DatasetSpec(
        37,
        splits={"train": {"split": "trainval"}, "test": {"split": "test"}},
        option="target_types",
        choices={"category": {}, "binary-category": {"num_classes": 2, "names": "bin_classes"}},
        files=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    ),
    "DTD": DatasetSpec(47, splits=THREE_SPLITS, files=("dtd/dtd",), page="https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
    "FGVCAircraft": DatasetSpec(
        100,
        splits=THREE_SPLITS,
        option="annotation_level",
        choices={"variant": {}, "family": {"num_classes": 70}, "manufacturer": {"num_classes": 30}},
        files=("fgvc-aircraft-2013b",),
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    "StanfordCars": DatasetSpec(
        196,
        download=False,
        files=("stanford_cars/devkit", "stanford_cars/cars_train", "stanford_cars/cars_test"),
        page="https://github.com/pytorch/vision/issues/7545",
        note="its own page is gone for good, copies are named there",
    ),
    "Caltech101": DatasetSpec(
        101,
        splits=UNDIVIDED,
        option="target_type",
        choices={"category": {}},
        names="categories",
        listed=8_677,
        files=("caltech101/101_ObjectCategories",),
        page="https://data.caltech.edu/records/mzrjq-6wc02",
    ),
    "Caltech256": DatasetSpec(
        257,
        splits=UNDIVIDED,
        names="categories",
        listed=30_607,
        files=("caltech256/256_ObjectCategories",),
        page="https://data.caltech.edu/records/nyy15-4j048",
    ),
    "Country211": DatasetSpec(
        211,
        splits={"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
        listed=31_650,
        files=("country211",),
        page="https://github.com/openai/CLIP/blob/main/data/country211.md",
    ),
    "SUN397": DatasetSpec(
        397,
        splits=UNDIVIDED,
        listed=108_754,
        files=("SUN397",),
        page="https://vision.princeton.edu/projects/2010/SUN/",
    ),
    "Imagenette": DatasetSpec(
        10,
        splits=TRAIN_VAL,
        option="size",
        choices={"full": {}, "320px": {"files": ("imagenette2-320",)}, "160px": {"files": ("imagenette2-160",)}},
        listed=9_469,
        files=("imagenette2",),
        page="https://github.com/fastai/imagenette",
    ),
    "ImageNet": DatasetSpec(
        1000,
        splits=TRAIN_VAL,
        download=False,
        unpacks=True,
        listed=1_281_167,
        files=("train", "val", "meta.bin"),
        page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        note="or leave its archives in root: ILSVRC2012_img_train.tar, ..._img_val.tar and ..._devkit_t12.tar.gz",
    ),
    "Places365": DatasetSpec(  # its test images have no labels
        365,
        splits={"train": {"split": "train-standard"}, "val": {"split": "val"}},
        files=("categories_places365.txt", "places365_train_standard.txt"),
        page="http://places2.csail.mit.edu/download.html",
    ),
    "INaturalist": DatasetSpec(
        10_000,
        splits={"train": {"version": "2021_train"}, "val": {"version": "2021_valid"}},
        option="target_type",
        choices={"full": {}, **{level: {"num_classes": None, "names": None} for level in INATURALIST_LEVELS}},
        names="all_categories",
        listed=2_686_843,
        files=("2021_train", "2021_valid"),
        page="https://github.com/visipedia/inat_comp",
    ),
}
"""By the name of the class in torchvision.datasets."""

FLOW = ("FlyingChairs", "FlyingThings3D", "HD1K", "KittiFlow", "Sintel")
STEREO = (
    *("CREStereo", "CarlaStereo", "ETH3DStereo", "FallingThingsStereo", "InStereo2k", "Kitti2012Stereo"),
    *("Kitti2015Stereo", "Middlebury2014Stereo", "SceneFlowStereo", "SintelStereo"),
)
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("CocoDetection", "VOCDetection", "WIDERFace", "Kitti"), "is for detection: boxes, not one class"),
    **dict.fromkeys(("VOCSegmentation", "Cityscapes", "SBDataset"), "is for segmentation: a class for every pixel"),
    **dict.fromkeys(("CocoCaptions", "Flickr8k", "Flickr30k", "SBU"), "has captions, no classes"),
    **dict.fromkeys(("HMDB51", "UCF101", "Kinetics", "MovingMNIST"), "holds videos"),
    **dict.fromkeys(("LFWPairs", "PhotoTour"), "holds pairs of images"),
    **dict.fromkeys(FLOW, "is for optical flow"),
    **dict.fromkeys(STEREO, "holds stereo pairs"),
    "CelebA": "has forty attributes for every image, not one class",
    "LFWPeople": "has different people for training and testing",
    "Omniglot": "has different characters in its two parts",
    "LSUN": "is many databases, one for each kind of scene",
    "LSUNClass": "is a single class",
    "FakeData": "is made up, not read from a folder",
    **dict.fromkeys(("ImageFolder", "DatasetFolder"), "is any folder of images (use ImageFolderDataModule(root))"),
    "VisionDataset": "is a base class",
}
"""Names of torchvision.datasets that are no classification dataset with a training part, and what they are."""
