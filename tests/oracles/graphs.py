"""Slow, obvious definitions of the graphs of the masking paper, one pair or one edge at a time."""

import numpy as np


def small_world_density(grid, radius, shortcuts):
    """Mean share of allowed keys: the ball counted cell by cell, plus shortcuts as far as there are keys for them."""
    height, width = grid
    cells = [(row, column) for row in range(height) for column in range(width)]
    allowed = 0
    for row, column in cells:
        ball = sum(abs(row - other_row) + abs(column - other_column) <= radius for other_row, other_column in cells)
        allowed += min(len(cells), ball + shortcuts)
    return allowed / len(cells) ** 2


def grow_one_by_one(tokens, density, exponent, generator, query="pair"):
    """Preferential attachment, literally: draw one edge, recompute every weight, draw the next.

    query="pair": the edge is any absent pair with probability proportional to the weight of its key.
    query="uniform": first a query that still lacks keys, uniformly; then its key among those it lacks, by weight.
    """
    graph = np.eye(tokens, dtype=bool)
    for i in range(tokens):
        others = [j for j in range(tokens) if j != i]
        graph[i, generator.choice(others, size=2, replace=False)] = True
    while graph.sum() < round(density * tokens**2):
        in_degree = graph.sum(axis=0) - 1  # self does not count
        weight = np.where(graph, 0.0, (in_degree + 1.0) ** exponent)
        if query == "uniform":
            i = generator.choice(np.flatnonzero(weight.any(axis=1)))
            j = generator.choice(tokens, p=weight[i] / weight[i].sum())
        else:
            i, j = divmod(generator.choice(tokens**2, p=weight.ravel() / weight.sum()), tokens)
        graph[i, j] = True
    return graph
