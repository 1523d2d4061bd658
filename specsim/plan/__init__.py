"""Capacity: how many devices a load needs, and what speculation changes about it."""

from specsim.plan.capacity import Capacity, Goal, Trial, capacity, try_out
from specsim.plan.offered import Offered
from specsim.plan.setup import Setup

__all__ = ["Capacity", "Goal", "Offered", "Setup", "Trial", "capacity", "try_out"]
