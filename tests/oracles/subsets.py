"""The best set of cells by trying all of them, in a plain loop."""

from itertools import combinations

import numpy as np


def best_error(gram: np.ndarray, blocks: np.ndarray, conflicts: np.ndarray, target: int) -> float:
    """Smallest 1' G 1 of any allowed set that saves at least `target`; infinite where there is none."""
    best = np.inf
    for size in range(1, len(blocks) + 1):
        for chosen in map(list, combinations(range(len(blocks)), size)):
            allowed = blocks[chosen].sum() >= target and not conflicts[np.ix_(chosen, chosen)].any()
            if allowed:
                best = min(best, gram[np.ix_(chosen, chosen)].sum())
    return best
