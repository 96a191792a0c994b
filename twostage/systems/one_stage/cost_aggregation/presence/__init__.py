"""Class presence: which classes an image shows, and the filter of the vocabulary that follows from it."""

from twostage.systems.one_stage.cost_aggregation.presence.build import build_presence
from twostage.systems.one_stage.cost_aggregation.presence.presence import Presence

__all__ = ["Presence", "build_presence"]
