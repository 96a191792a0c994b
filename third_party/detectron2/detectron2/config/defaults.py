"""The default config: upstream's keys and values, as far as semantic segmentation and foreign yaml files need them."""

from __future__ import annotations

from typing import Any

from detectron2.config.config import CONFIG_VERSION, CfgNode

_RESNETS: dict[str, Any] = {
    "DEPTH": 50,
    "OUT_FEATURES": ["res4"],
    "NUM_GROUPS": 1,
    "NORM": "FrozenBN",
    "WIDTH_PER_GROUP": 64,
    "STRIDE_IN_1X1": True,
    "RES5_DILATION": 1,
    "RES2_OUT_CHANNELS": 256,
    "STEM_OUT_CHANNELS": 64,
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}

_MODEL: dict[str, Any] = {
    "DEVICE": "cuda",
    "META_ARCHITECTURE": "GeneralizedRCNN",
    # Path or URL of a checkpoint; "" starts from the initial weights.
    "WEIGHTS": "",
    # In the channel order of INPUT.FORMAT, on 0..255.
    "PIXEL_MEAN": [103.530, 116.280, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
    "RESNETS": _RESNETS,
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "IGNORE_VALUE": 255,
        "NUM_CLASSES": 54,
        "CONVS_DIM": 128,
        "COMMON_STRIDE": 4,
        "NORM": "GN",
        "LOSS_WEIGHT": 1.0,
    },
    # The three below are read by nothing here: yaml files of mask-classification projects set them.
    "PANOPTIC_FPN": {
        "COMBINE": {
            "ENABLED": True,
            "OVERLAP_THRESH": 0.5,
            "STUFF_AREA_LIMIT": 4096,
            "INSTANCES_CONFIDENCE_THRESH": 0.5,
        }
    },
    "ROI_HEADS": {"NUM_CLASSES": 80, "SCORE_THRESH_TEST": 0.05},
    "ROI_KEYPOINT_HEAD": {"MIN_KEYPOINTS_PER_IMAGE": 1},
}

_INPUT: dict[str, Any] = {
    # Short edge in pixels: drawn from these ("choice") or between two ("range"); long edge at most MAX_SIZE.
    "MIN_SIZE_TRAIN": (800,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    # horizontal | vertical | none
    "RANDOM_FLIP": "horizontal",
    # TYPE: relative | relative_range | absolute | absolute_range; SIZE: (height, width).
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    "FORMAT": "BGR",
    "MASK_FORMAT": "polygon",
}

_DATASETS: dict[str, Any] = {
    "TRAIN": (),
    "TEST": (),
    "PROPOSAL_FILES_TRAIN": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

_DATALOADER: dict[str, Any] = {
    "NUM_WORKERS": 4,
    "ASPECT_RATIO_GROUPING": True,
    "SAMPLER_TRAIN": "TrainingSampler",
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
    "FILTER_EMPTY_ANNOTATIONS": True,
}

_SOLVER: dict[str, Any] = {
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "MAX_ITER": 40000,
    "BASE_LR": 0.001,
    "BASE_LR_END": 0.0,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,
    # None: as other weights.
    "WEIGHT_DECAY_BIAS": None,
    "BIAS_LR_FACTOR": 1.0,
    "GAMMA": 0.1,
    "STEPS": (30000,),
    "NUM_DECAYS": 3,
    "WARMUP_FACTOR": 1.0 / 1000,
    "WARMUP_ITERS": 1000,
    "WARMUP_METHOD": "linear",
    "RESCALE_INTERVAL": False,
    "CHECKPOINT_PERIOD": 5000,
    # Of all processes together.
    "IMS_PER_BATCH": 16,
    # The number of processes that batch size, rates and periods are meant for; 0: no rescaling.
    "REFERENCE_WORLD_SIZE": 0,
    # Per parameter tensor; CLIP_TYPE: value | norm.
    "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
    "AMP": {"ENABLED": False},
}

_TEST: dict[str, Any] = {
    # Entries [task, metric, expected value, tolerance]: the run fails where a result is further off.
    "EXPECTED_RESULTS": [],
    # In iterations; 0: only after training.
    "EVAL_PERIOD": 0,
    "DETECTIONS_PER_IMAGE": 100,
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}

DEFAULTS = CfgNode(
    {
        "VERSION": CONFIG_VERSION,
        "MODEL": _MODEL,
        "INPUT": _INPUT,
        "DATASETS": _DATASETS,
        "DATALOADER": _DATALOADER,
        "SOLVER": _SOLVER,
        "TEST": _TEST,
        "OUTPUT_DIR": "./output",
        # Negative: drawn anew for each run.
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        # "": torch's default; else highest | high | medium, see torch.set_float32_matmul_precision.
        "FLOAT32_PRECISION": "",
        "VIS_PERIOD": 0,
        "GLOBAL": {"HACK": 1.0},
    }
)
