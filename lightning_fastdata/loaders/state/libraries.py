"""Which code is a library's, whose inside is not looked at, and which is the user's."""

import functools
import os
import sys

__all__ = ["is_library"]

WELL_KNOWN = """
PIL absl accelerate aiohttp albucore albumentations anndata attr attrs av boto3 botocore braceexpand cloudpickle cv2
cycler dask datasets decord diffusers dill duckdb einops evaluate faiss filelock fsspec gcsfs grain h5py httpx
huggingface_hub hydra imageio imgaug jaxtyping jinja2 joblib jpegio jsonargparse kornia kornia_rs librosa lightning
lightning_fabric lightning_utilities litdata litlogger llvmlite lmdb loguru matplotlib mlflow monai msgpack msgspec
multiprocess mypy_extensions netCDF4 nibabel numba numcodecs numexpr numpy nvidia ogb omegaconf onnx open_clip
openslide orjson packaging pandas peft pkg_resources polars psutil psycopg psycopg2 pyarrow pydantic pydantic_core
pydicom pymongo pyproj pytest pytest_mock _pytest pytorch_lightning pytz rasterio redis regex requests rich
safetensors scipy sentencepiece setuptools shapely simplejpeg skimage sklearn soundfile sqlalchemy streaming sympy
tensordict tensorflow tensorstore threadpoolctl tifffile tiktoken timm tokenizers torch torch_geometric torch_scatter
torch_sparse torchaudio torchcodec torchdata torchgeo torchio torchmetrics torchtext torchvision tqdm transformers
triton typing_extensions tyro ujson urllib3 wandb webdataset wrapt xarray yaml zarr zarrs zstandard
"""
"""Installed packages that keep no state of the user's. Any other is followed like the user's own code: no file
shows whether an installed project is the user's own."""
INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
STANDARD = os.path.dirname(os.__file__) + os.sep


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module is of the standard library, of this package or of a well-known installed one.

    A file of the user's that only has the name of one (``datasets/``, ``queue.py``) is the user's.

    Args:
        module: Its full name, as a class or function gives it in ``__module__``.
    """
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return True
    loaded = sys.modules.get(module) or sys.modules.get(top)
    file = getattr(loaded, "__file__", None) or ""
    if top in sys.stdlib_module_names and top != "__main__":
        return not file or (file.startswith(STANDARD) and not any(folder in file for folder in INSTALLED))
    return top in WELL_KNOWN.split() and (not file or any(folder in file for folder in INSTALLED))
