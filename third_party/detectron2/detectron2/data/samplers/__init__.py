"""The order in which samples are taken."""

from detectron2.data.samplers.distributed_sampler import InferenceSampler, TrainingSampler

__all__ = ["InferenceSampler", "TrainingSampler"]
