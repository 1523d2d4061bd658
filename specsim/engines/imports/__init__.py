"""What engines write about themselves, read back: counters, logs, benchmark results.

Each reader turns one published format into ``Observation``s; ``read_observations`` finds out which format a file has.
"""

from specsim.engines.imports.observation import Observation, acceptance_of, merged
from specsim.engines.imports.read import FORMATS, read_observations

__all__ = ["FORMATS", "Observation", "acceptance_of", "merged", "read_observations"]
