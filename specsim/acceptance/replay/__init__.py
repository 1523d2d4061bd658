"""What other policies would have done on texts that were recorded once, without the models.

Three ways, each with its own reach: chains and trees of sampled drafts along the text alone (``forced``), trees of the
most probable tokens on a recorded forest (``world``), and ``evaluate``, which picks the way and says how exact it is.
"""

from specsim.acceptance.replay.answers import Bounds, Exact, ReplayRefused
from specsim.acceptance.replay.evaluate import evaluate
from specsim.acceptance.replay.forced import ForcedText, chain_lengths, replay_chains
from specsim.acceptance.replay.forest import Forest, Laws, RecordedText, load_forest, load_text, save_text
from specsim.acceptance.replay.superset import Superset
from specsim.acceptance.replay.walk import chain_rounds, expected_rounds, visits

__all__ = [
    "Bounds",
    "Exact",
    "ForcedText",
    "Forest",
    "Laws",
    "RecordedText",
    "ReplayRefused",
    "Superset",
    "chain_lengths",
    "chain_rounds",
    "evaluate",
    "expected_rounds",
    "load_forest",
    "load_text",
    "replay_chains",
    "save_text",
    "visits",
]
