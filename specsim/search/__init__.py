"""The best draft configuration, and how sure that is.

``exact`` solves the problems as pure functions over arrays, acceptance and cost coming in as data. The modules here ask
them of deployments: one point (``tune``), all batch sizes (``by_load``), an engine's words (``expressible``), a fleet
(``joint``), a grid (``sweep``). ``dynamic`` tunes trees that grow by confidence, ``robust`` chooses under uncertainty.
"""

from specsim.search.exact.certificate import Certificate
from specsim.search.exact.chain import ChainAnswer, best_chain
from specsim.search.exact.tree import TreeAnswer, TreesBySize, best_tree, best_trees_by_size

__all__ = [
    "Certificate",
    "ChainAnswer",
    "TreeAnswer",
    "TreesBySize",
    "best_chain",
    "best_tree",
    "best_trees_by_size",
]
