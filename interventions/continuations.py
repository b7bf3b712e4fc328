"""How a spec that is half typed may go on: heads of every family, options behind @, values of an option."""

from interventions.errors import SpecError
from interventions.families import Intervention, every_family
from interventions.scope import CHOICES, OPTIONS
from interventions.spec import parse


def continuations(text: str) -> list[str]:
    """Return whole words that begin with `text`, each a spec or, where it ends in @ or =, the beginning of one."""
    head, at, scope = text.partition("@")
    if not at:
        heads = dict.fromkeys(word for family in every_family() for word in (*family.heads, family.example))
        scoped = [f"{head}@"] if (whole := _read(head)) is not None and whole.options else []
        return [word for word in heads if word.startswith(head)] + scoped
    before, semicolon, last = scope.rpartition(";")
    start = f"{head}@{before}{semicolon}"
    name, equals, value = last.partition("=")
    if equals:
        specs = [f"{start}{name}={choice}" for choice in CHOICES.get(name, ()) if choice.startswith(value)]
        return [spec for spec in specs if _is_valid(spec)]
    family = _read(head)
    allowed = OPTIONS if family is None else [option for option in OPTIONS if option in family.options]
    given = {part.partition("=")[0] for part in before.split(";")}
    return [f"{start}{option}=" for option in allowed if option.startswith(name) and option not in given]


def _is_valid(spec: str) -> bool:
    try:
        return bool(parse(spec))
    except SpecError:
        return False


def _read(head: str) -> Intervention | None:
    """The intervention of a head, None where it is none (yet)."""
    for family in every_family():
        try:
            if (value := family.read(head)) is not None:
                return value
        except SpecError:
            return None
    return None
