"""Which tokens of a sequence are prefix, image and text, and where the image tokens lie on their grid.

A layout says what the tokens of one attention call are; it knows nothing of masks or models. `for_call` finds the
layout of a call from its lengths alone, so a model family costs one `TokenLayout` and no attention code.
"""

from dataclasses import dataclass

import numpy as np

from interventions.errors import spec_error

IMAGE, TEXT, PREFIX, PADDING = 0, 1, 2, 3  # PADDING: a text token that only fills up the sequence, where that is known
_SCALES = 6  # a UNet halves its grid at most this many times; 2**6 = 64 covers a 1-token bottom of a 64 x 64 latent


@dataclass(frozen=True)
class TokenLayout:
    """Token kinds of a sequence in the order prefix, image (row-major grid), text.

    `grid` is (height, width) in tokens; (0, 0) is a sequence without image tokens. Raises `SpecError` for negative or
    empty sizes.
    """

    grid: tuple[int, int]
    prefix: int = 0
    text: int = 0

    def __post_init__(self) -> None:
        """Bring the sizes to plain integers and refuse those that describe no sequence."""
        example = "TokenLayout(grid=(16, 16), prefix=1)"
        try:
            height, width = (int(side) for side in self.grid)
        except (TypeError, ValueError):
            raise spec_error(f"grid={self.grid!r}", "a grid is (height, width) in tokens", example) from None
        if min(height, width) < 0 or (height == 0) != (width == 0):
            raise spec_error(f"grid={self.grid!r}", "both sides must be positive", example)
        if min(self.prefix, self.text) < 0:
            raise spec_error(f"prefix={self.prefix}, text={self.text}", "a token count is 0 or more", example)
        object.__setattr__(self, "grid", (height, width))
        object.__setattr__(self, "prefix", int(self.prefix))
        object.__setattr__(self, "text", int(self.text))
        if self.size == 0:
            raise spec_error("layout", "it has no token at all", example)

    @property
    def image_tokens(self) -> int:
        """Number of image tokens, height x width."""
        return self.grid[0] * self.grid[1]

    @property
    def image(self) -> slice:
        """Positions of the image tokens in the sequence."""
        return slice(self.prefix, self.prefix + self.image_tokens)

    @property
    def size(self) -> int:
        """Number of tokens in the sequence."""
        return self.prefix + self.image_tokens + self.text

    def kinds(self) -> np.ndarray:
        """Return int8 [size]: 0 image, 1 text, 2 prefix."""
        counts = (self.prefix, self.image_tokens, self.text)
        return np.repeat(np.array([PREFIX, IMAGE, TEXT], dtype=np.int8), counts)

    def count(self, kind: str) -> int:
        """Return how many tokens are of a kind: "image", "text", "prefix" or "all"."""
        return {"image": self.image_tokens, "text": self.text, "prefix": self.prefix, "all": self.size}[kind]

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (token_y, token_x), int16 [size] each: grid row and column of image tokens, -1 for the others."""
        token_y = np.full(self.size, -1, dtype=np.int16)
        token_x = token_y.copy()
        rows, columns = np.indices(self.grid)
        token_y[self.image] = rows.ravel()
        token_x[self.image] = columns.ravel()
        return token_y, token_x

    def for_call(
        self, n_query: int, n_key: int, cross: bool | None = None
    ) -> tuple["TokenLayout | None", "TokenLayout | None"]:
        """Return the layouts of the queries and of the keys of an attention call, from its lengths.

        A call over the whole sequence has this layout on both sides; over the image tokens alone (SD3.5's second
        attention) their own; a call of another resolution (UNet levels) the grid halved or doubled as often as needed,
        rounding up as strided convolutions do; cross attention has image queries and text keys. `cross` says which of
        the two a call is where the lengths alone cannot. Raises `SpecError` if no reading fits or two do.
        """
        if cross is not True and n_query == n_key == self.size:
            return self, self
        as_self = self._at_resolution(n_query) if cross is not True and n_query == n_key else None
        as_cross = None
        if cross is not False and self.text and n_key == self.text:
            as_cross = self._at_resolution(n_query)
        if as_self and as_cross:
            raise spec_error(
                f"attention call {n_query} x {n_key}",
                f"{n_key} is both a resolution of the grid {self.grid} and the number of text tokens",
                "for_call(n_query, n_key, cross=True)",
            )
        if as_self:
            return as_self, as_self
        if as_cross:
            return as_cross, TokenLayout((0, 0), text=self.text)
        raise spec_error(
            f"attention call {n_query} x {n_key}",
            f"it does not fit a sequence of {self.prefix} prefix, {self.grid[0]}x{self.grid[1]} image and "
            f"{self.text} text tokens, at any power-of-two resolution",
            "layout=TokenLayout(grid=(16, 16)) for 256 tokens",
        )

    def _at_resolution(self, tokens: int) -> "TokenLayout | None":
        """Return the image-only layout with that many tokens, on this grid halved or doubled; None if there is none."""
        if not self.image_tokens:
            return None
        height, width = self.grid
        halved = [(-(-height // 2**level), -(-width // 2**level)) for level in range(_SCALES + 1)]
        doubled = [(height * 2**level, width * 2**level) for level in range(1, _SCALES + 1)]
        for grid in halved + doubled:
            if grid[0] * grid[1] == tokens:
                return TokenLayout(grid)
        return None
