"""The picture of a mask: one token's neighbourhood on the grid, the adjacency matrix, the in-degree map.

It draws a boolean array; it neither makes masks nor computes statistics of them (`interventions` does both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.figures.style import letters, panels, styled

TOKEN = "#d55e00"
RELATIONS = {"not connected": "#f2f2f2", "reads": "#56b4e9", "is read by": "#f0c987", "both": "#0072b2"}
GREYS = LinearSegmentedColormap.from_list("allowed", ["white", "#1b1b1b"])
LABELLED = 6  # frames that have room for the word beside their number
SHARP = 600  # tokens whose pairs can be drawn one by one


class Layout(Protocol):
    """What the picture needs of a token layout: frames, the grid of one, the image tokens, the sequence length."""

    @property
    def frames(self) -> int: ...  # noqa: D102
    @property
    def grid(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def image(self) -> slice: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Frames:
    """How the frames of a video lie in a picture: in rows of about equal width and height, apart from each other."""

    count: int
    height: int
    width: int

    @property
    def box(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.count, self.height, self.width

    @property
    def across(self) -> int:
        """How many frames stand in a row."""
        return min(self.count, max(1, math.ceil(math.sqrt(self.count * self.height / self.width))))

    @property
    def gap(self) -> int:
        """Cells between frames, with room for a number."""
        return 0 if self.count == 1 else max(1, round(0.25 * self.height))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the whole picture."""
        down = -(-self.count // self.across)
        return down * (self.height + self.gap) - self.gap, self.across * (self.width + self.gap) - self.gap

    def corner(self, frame: int) -> tuple[int, int]:
        """(row, column) of a frame's first cell."""
        row, column = divmod(frame, self.across)
        return row * (self.height + self.gap), column * (self.width + self.gap)

    def beside(self, values: np.ndarray) -> np.ma.MaskedArray:
        """Values [token], frame after frame, as one picture; what lies between the frames is masked."""
        picture = np.ma.masked_all(self.shape, dtype=values.dtype)
        for frame, cells in enumerate(values.reshape(self.box)):
            down, right = self.corner(frame)
            picture[down : down + self.height, right : right + self.width] = cells
        return picture


@styled
def figure(mask: np.ndarray, layout: Layout, title: str, token: tuple[int, ...] | None = None) -> Figure:
    """Draw a mask, bool [query, key] over the whole sequence of a layout.

    Left: the image tokens that one token reads and that read it; `token` is its (row, column), with the frame before
    them in a video, and the middle by default. Middle: the whole mask, other tokens than image set off by lines.
    Right: how many other image tokens read each image token. The frames of a video stand side by side. Raises
    `ValueError` if the mask is not of the layout's size.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != (layout.size, layout.size):
        raise ValueError(f"a mask {list(mask.shape)} is not over the {layout.size} tokens of the layout")
    graph = mask[layout.image, layout.image]
    grid = Frames(layout.frames, *layout.grid)
    chosen = tuple(token or (side // 2 for side in (layout.frames, *layout.grid)))
    drawn, axes = panels(1, 3, width=7.4, height=2.9)
    _neighbourhood(axes[0, 0], graph, grid, (*(0,) * (3 - len(chosen)), *chosen))
    _adjacency(axes[0, 1], mask, layout)
    _in_degree(axes[0, 2], graph, grid)
    letters(axes)
    drawn.suptitle(f"{title}   (image-image density {_percent(graph.mean())})", x=0.01, ha="left", fontsize=9.5)
    return drawn


def neighbourhood(graph: np.ndarray, token: int) -> np.ndarray:
    """Return int [token]: 0 not connected, 1 read by `token`, 2 reads `token`, 3 both; itself 0."""
    relation = graph[token].astype(int) + 2 * graph[:, token]
    relation[token] = 0
    return relation


def _neighbourhood(axes: Axes, graph: np.ndarray, grid: Frames, token: tuple[int, ...]) -> None:
    """One token, the keys it reads and the queries that read it."""
    relation = neighbourhood(graph, int(np.ravel_multi_index(token, grid.box)))
    colours = list(RELATIONS.values())
    axes.imshow(grid.beside(relation), cmap=ListedColormap(colours), vmin=-0.5, vmax=3.5, interpolation="nearest")
    if max(grid.shape) <= 32:
        axes.set_xticks(np.arange(grid.shape[1] + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(grid.shape[0] + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.5)
    down, right = np.add(grid.corner(token[0]), token[1:])
    axes.add_patch(Rectangle((right - 0.5, down - 0.5), 1, 1, facecolor=TOKEN, edgecolor=TOKEN))
    named = token if grid.count > 1 else token[1:]
    handles = [Patch(color=TOKEN, label=f"token ({', '.join(map(str, named))})")]
    handles += [
        Patch(color=colours[kind], label=f"{name} ({(relation == kind).sum()})")
        for kind, name in enumerate(RELATIONS)
        if kind and (relation == kind).any()
    ]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=2, columnspacing=1, handlelength=1
    )
    _grid_axes(axes, grid, "neighbourhood")


def _adjacency(axes: Axes, mask: np.ndarray, layout: Layout) -> None:
    """The mask itself, dark where attention is allowed."""
    shown, cell = mask.astype(np.float32), -(-len(mask) // SHARP)
    if cell > 1:  # more tokens than dots: each dot is the share of allowed pairs under it, its root so that few show
        padded = np.pad(shown, (0, -len(mask) % cell), constant_values=np.nan)
        blocks = padded.reshape(len(padded) // cell, cell, -1, cell)
        shown = np.sqrt(np.nanmean(blocks, axis=(1, 3)))  # NaN: what the padding fills
    end = cell * len(shown) - 0.5
    axes.imshow(shown, cmap=GREYS, vmin=0, vmax=1, extent=(-0.5, end, end, -0.5), interpolation="nearest")
    axes.set(xlim=(-0.5, len(mask) - 0.5), ylim=(len(mask) - 0.5, -0.5))
    for edge in (layout.image.start, layout.image.stop):
        if 0 < edge < layout.size:
            axes.axhline(edge - 0.5, color=TOKEN, linewidth=0.6)
            axes.axvline(edge - 0.5, color=TOKEN, linewidth=0.6)
    axes.set(title="adjacency", xlabel="key", ylabel="query")
    axes.grid(False)
    _frame(axes)


def _in_degree(axes: Axes, graph: np.ndarray, grid: Frames) -> None:
    """How many other tokens read each token."""
    degree = graph.sum(axis=0) - graph.diagonal()
    image = axes.imshow(grid.beside(degree), cmap="cividis", interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.72, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("queries that read the token", fontsize=7)
    axes.grid(False)
    _grid_axes(axes, grid, "in-degree")


def _grid_axes(axes: Axes, grid: Frames, title: str) -> None:
    """Axes in grid coordinates; frames side by side have their number above them instead."""
    axes.set(title=title)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="minor", length=0)
    if grid.count == 1:
        axes.set(xlabel="column", ylabel="row")
        for side, ticks in zip(grid.shape, (axes.set_yticks, axes.set_xticks), strict=True):
            ticks(sorted({0, side // 4, side // 2, 3 * side // 4, side - 1}))
        _frame(axes)
        return
    axes.set(xticks=[], yticks=[], ylim=(grid.shape[0] - 0.5, -0.5 - grid.gap))
    axes.spines[:].set_visible(False)
    for number in range(grid.count):
        down, right = grid.corner(number)
        label = f"frame {number}" if grid.count <= LABELLED else str(number)
        axes.text(right - 0.4, down - 0.6, label, fontsize=5.5, va="bottom", color="#555555")


def _frame(axes: Axes) -> None:
    """A thin box around an image."""
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.5, color="#999999")


def _percent(share: float) -> str:
    """A share in percent, with two digits where it is small."""
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"
