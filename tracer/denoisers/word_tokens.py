"""Which text tokens of a prompt are which of its words, as its tokenizers cut it.

A word is what stands between spaces, marks by themselves. Its pieces belong to it, in every tokenizer that the text
goes through. What begins, ends and fills up the text is one entry each, in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Word = tuple[str, tuple[int, ...]]
"""A word, and the text tokens (counted among the text tokens of the layout) that are its."""
START, END, PADDING = "[start]", "[end]", "[padding]"
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def words_of(prompt: str, tokenizers: Sequence[tuple[Any, int]]) -> list[Word]:
    """The words of a prompt in its order, then start, end and padding where there are any.

    tokenizers: those whose tokens stand one after the other in the text, each with the length it is filled up or cut
    to. A word that all of them cut off is left out.
    """
    spans = [(match.start(), match.end()) for match in _WORD.finditer(prompt)]
    entries: dict[Any, list[int]] = {}
    first = 0
    for tokenizer, length in tokenizers:
        for token, entry in enumerate(_entries(tokenizer, prompt, length, spans)):
            entries.setdefault(entry, []).append(first + token)
        first += length
    places = [(prompt[slice(*spans[k])], k) for k in range(len(spans))] + [
        (name, name) for name in (START, END, PADDING)
    ]
    return [(text, tuple(entries[entry])) for text, entry in places if entry in entries]


def _entries(tokenizer: Any, prompt: str, length: int, spans: Sequence[tuple[int, int]]) -> Iterable[int | str]:
    """For each token the number of its word, or what else it is. A piece that is a space belongs to the next word."""
    how = {"padding": "max_length", "max_length": length, "truncation": True, "return_offsets_mapping": True}
    told = tokenizer(prompt, **how)
    begins = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    tokens = zip(told["input_ids"], told["attention_mask"], told["offset_mapping"], strict=True)
    for at, (token, real, (start, stop)) in enumerate(tokens):
        if not real:
            yield PADDING
        elif start == stop or not spans:  # it stands for no letter
            yield START if at == 0 and token in begins else END
        else:
            first = next((k for k in range(start, stop) if not prompt[k].isspace()), stop)
            yield next((k for k, (_, ends) in enumerate(spans) if first < ends), len(spans) - 1)


def by_position(padding: np.ndarray) -> list[Word]:
    """Every text token by its number, where its words are not known; bool [text]: those that fill up are one entry."""
    filled = tuple(map(int, np.flatnonzero(padding)))
    words = [(f"token {at + 1}", (int(at),)) for at in np.flatnonzero(~padding)]
    return [*words, *([(PADDING, filled)] if filled else [])]
