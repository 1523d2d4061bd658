"""How many tokens come out of a round."""

from specsim.acceptance.counters import profile_from_counters, profile_from_histogram
from specsim.acceptance.emitted import (
    Acceptance,
    emitted_distribution,
    longest_chain,
    node_accept_probs,
    num_emitted,
    path_probs,
    sample_rounds,
    stop_probs,
    tokens_per_round,
)
from specsim.acceptance.isotonic import concave_tokens, falling, falling_survival, smoothed
from specsim.acceptance.profile import AcceptanceProfile, RankOrder
from specsim.acceptance.requests import RequestStates, RoundSampler
from specsim.acceptance.spread import RequestSpread
from specsim.acceptance.spread_fit import FittedSpread, fit_spread, spread_from_totals
from specsim.acceptance.trie import PathTrie, trie_from_records
from specsim.acceptance.uncertainty import (
    Sample,
    TokensInterval,
    posterior_draws,
    tokens_draws,
    tokens_interval,
    tokens_log_variance,
)

__all__ = [
    "Acceptance",
    "AcceptanceProfile",
    "FittedSpread",
    "PathTrie",
    "RankOrder",
    "RequestSpread",
    "RequestStates",
    "RoundSampler",
    "Sample",
    "TokensInterval",
    "concave_tokens",
    "emitted_distribution",
    "falling",
    "falling_survival",
    "fit_spread",
    "longest_chain",
    "node_accept_probs",
    "num_emitted",
    "path_probs",
    "posterior_draws",
    "profile_from_counters",
    "profile_from_histogram",
    "sample_rounds",
    "smoothed",
    "spread_from_totals",
    "stop_probs",
    "tokens_draws",
    "tokens_interval",
    "tokens_log_variance",
    "tokens_per_round",
    "trie_from_records",
]
