"""Installs the subset of Detectron2's API that twostage needs, where upstream's cannot be installed."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="detectron2",
    # The local label marks this package: pip replaces it by upstream's "0.6", and it still satisfies "detectron2==0.6".
    version="0.6+twostage",
    description="A subset of Detectron2's API for semantic segmentation, in plain Python",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["detectron2", "detectron2.*"]),
    install_requires=[
        "torch>=2.4",
        "fvcore",
        "iopath",
        "yacs>=0.1.8",
        "numpy",
        "pillow",
        "pycocotools",
        "tabulate",
        "termcolor",
        "tensorboard",
        "opencv-python-headless",
    ],
)
