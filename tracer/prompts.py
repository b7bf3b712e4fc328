"""Prompts of a text-to-image run: from a text file, a GenEval-style jsonl file, the command line, or built in.

Tags are kept, and a subset takes the tags in turn, so that 64 of GenEval's 553 prompts are not 64 of one kind. Prompts
are chosen here and nothing else: encoding them is the denoiser's business.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from interventions.errors import InputError
from interventions.naming import closest
from tracer.denoisers.registry import MODELS, prompted_models
from tracer.store.places import expanded, nearest_path

BUILT_IN = Path(__file__).parent / "denoisers" / "embedded" / "sd3" / "prompts.jsonl"
"""The prompts that ship, in the embedded SD3's words; `--prompts emoji`, or nothing, takes them."""


MOST_LETTERS = 5_000
"""Of a prompt; text encoders read far less."""
MOST_BYTES = 20_000_000
"""Of a prompt file."""


class PromptError(InputError):
    """A prompt source is missing, empty or malformed; the message says where and what to type."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and the category it belongs to, None where the source has none."""

    text: str
    tag: str | None = None


def load(
    source: str | Path | Sequence[str | Prompt] | None = None, model: str = "sd3", count: int | None = None
) -> list[Prompt]:
    """Prompts for a run of `count` samples (None: all of them).

    `source`: a file (`.jsonl` with "prompt" and perhaps "tag" per line, as GenEval's evaluation_metadata.jsonl; any
    other one prompt a line), a prompt of several words, a sequence of prompts, or None (or "emoji") for the built-in
    list. The tags of a file are taken in turn, a sequence stays in its order. More samples than prompts repeat the
    list. Raises PromptError.
    """
    if count is not None and count < 1:
        raise PromptError(f"{count} samples: at least 1 is needed")
    if source is None and model in MODELS and not MODELS[model].prompted:
        raise PromptError(f"model {model!r} takes no prompts: the families that do are {', '.join(prompted_models())}")
    if source is None or isinstance(source, str | Path):
        return stratified(_read("emoji" if source is None else source), count)
    return _counted(_typed(source), count)


def stratified(prompts: Sequence[Prompt], count: int | None = None) -> list[Prompt]:
    """Round-robin over tags in order of first appearance, each tag's prompts in their own order; then cut or repeated.

    The first k of a longer list are the list of k, so a smaller run is the beginning of a larger one.
    """
    by_tag: dict[str | None, list[Prompt]] = {}
    for prompt in prompts:
        by_tag.setdefault(prompt.tag, []).append(prompt)
    rounds = itertools.zip_longest(*by_tag.values())
    ordered = [prompt for one_each in rounds for prompt in one_each if prompt is not None]
    return _counted(ordered, count)


def _counted(prompts: list[Prompt], count: int | None) -> list[Prompt]:
    """Cut or repeated to `count`; as they are without one."""
    return prompts if count is None else list(itertools.islice(itertools.cycle(prompts), count))


def _read(source: str | Path) -> list[Prompt]:
    if str(source) == "emoji":
        return _read_file(BUILT_IN)
    path = expanded(source)
    if path.is_file():
        return _read_file(path)
    if path.is_dir():
        raise PromptError(f"{source} is a folder: give a .txt file with one prompt a line, or a .jsonl file")
    if len(str(source).split()) > 1 and path.suffix not in (".txt", ".json", ".jsonl"):
        return _typed([str(source)])
    near = closest(source, ["emoji"]) or nearest_path(path)
    meant = f"did you mean {near}? " if near else ""
    raise PromptError(
        f"no prompt file {str(source)!r}: {meant}give a .txt or .jsonl file, the built-in list emoji, "
        'or a prompt of several words such as "a red heart"'
    )


def _typed(texts: Iterable[str | Prompt]) -> list[Prompt]:
    prompts = [each if isinstance(each, Prompt) else Prompt(" ".join(str(each).split())) for each in texts]
    if not prompts or not all(prompt.text for prompt in prompts):
        raise PromptError('a prompt is empty: type for example "a red heart"')
    return [_bounded(prompt, "a prompt") for prompt in prompts]


def _bounded(prompt: Prompt, where: str) -> Prompt:
    """The prompt itself. Raises PromptError for one that is no prompt any more, or no text that can be stored."""
    if len(prompt.text) > MOST_LETTERS:
        raise PromptError(
            f"{where}: {len(prompt.text)} letters; a prompt has at most {MOST_LETTERS}, and one stands on one line"
        )
    try:
        f"{prompt.text}{prompt.tag}".encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{where}: it is not Unicode text ({error.reason}): write it in UTF-8") from error
    return prompt


def _read_file(path: Path) -> list[Prompt]:
    if path.stat().st_size > MOST_BYTES:
        raise PromptError(f"{path} has {path.stat().st_size} bytes: a prompt file has at most {MOST_BYTES}; split it")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} is not a UTF-8 text file ({error}): give one, for example by `iconv -f latin1 -t utf-8`"
        ) from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise PromptError(f'{path} holds no prompt: write one a line, for example "a red heart"')
    if path.suffix in (".jsonl", ".json"):
        return [_from_json(path, number, line) for number, line in numbered]
    return [_bounded(Prompt(line), f"{path}, line {number}") for number, line in numbered]


def _from_json(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}, line {number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            f'{where}: not valid JSON ({error}); one object a line is expected, such as {{"prompt": "a red heart"}}'
        ) from error
    if not isinstance(entry, dict):
        raise PromptError(f'{where}: an object such as {{"prompt": "a red heart", "tag": "colors"}} is expected')
    text, tag = entry.get("prompt"), entry.get("tag")
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f'{where}: "prompt" is missing or empty; write for example {{"prompt": "a red heart"}}')
    if tag is not None and not isinstance(tag, str):
        raise PromptError(f'{where}: "tag" must be text, not {str(tag)[:40]}')
    return _bounded(Prompt(text.strip(), tag), where)
