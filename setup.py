"""Installs twostage. Detectron2 is not on PyPI and therefore not listed here: `make venv` installs upstream's where it is
present, else our own subset from third_party/detectron2."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="twostage",
    version="0.1.0",
    description="Open-vocabulary segmentation: every published system behind a config",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    # The configs live at the top of the repository and travel inside the package.
    packages=[*find_packages(include=["twostage", "twostage.*"]), "twostage.configs"],
    package_dir={"twostage.configs": "configs"},
    include_package_data=True,
    package_data={
        "twostage.configs": ["*.yaml", "*/*.yaml"],
        "twostage": [
            "clip/toybox/model_configs/*",
            "clip/weights/*",
            "systems/two_stage/odise/diffusion/weights/*",
            "systems/*/*/README.md",
            "visualization/*.html",
            "data/catalogue/*.json",
            "data/catalogue/*.txt",
            "data/catalogue/class_lists/*.json",
            "evaluation/*.json",
        ],
    },
    # ODISE's diffusion model.
    extras_require={"diffusion": ["diffusers>=0.30"]},
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "open_clip_torch>=3.0",
        "timm>=1.0",
        "fvcore",
        "iopath",
        "pycocotools",
        "opencv-python-headless",
        "scikit-image",
        "scipy",
        "numpy",
        "pillow",
        "safetensors",
        "tabulate",
        "tqdm",
        "tensorboard",
        "matplotlib",
        "jinja2",
        "markupsafe",
    ],
)
