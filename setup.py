"""Which folders are packages of the wheel; everything else stands in pyproject.toml.

Configs and our Detectron2 subset lie at the top of the repository and travel inside the package.
"""

from setuptools import find_packages, setup

SUBSET = "third_party/detectron2"

setup(
    packages=[
        *find_packages(include=["twostage", "twostage.*"]),
        "twostage.configs",
        *(f"twostage.third_party.detectron2.{name}" for name in find_packages(SUBSET)),
    ],
    package_dir={"twostage.configs": "configs", "twostage.third_party.detectron2": SUBSET},
)
