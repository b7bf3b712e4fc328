"""What a pipeline's folder says of itself: `model_index.json`, its class and its components, checked before any weight
is read. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interventions.naming import near_names, unknown
from tracer.denoisers.base import CheckpointError
from tracer.denoisers.checkpoints import class_name, read_json
from tracer.denoisers.hub import INDEX

INSTALL = "pip install 'denoise-trace[pipelines]'"
"""What brings the packages that some pipelines need."""


@dataclass(frozen=True)
class Index:
    """A pipeline's class, and the class of each of its components by name; None of one that it goes without."""

    pipeline: type
    components: Mapping[str, type | None]

    @property
    def name(self) -> str:
        """Of the pipeline's class."""
        return self.pipeline.__name__

    def check_names(self, names: Iterable[str], what: str) -> None:
        """Raise CheckpointError for a name that is none of the components; what: was asked of it, in words."""
        there = [name for name, kind in self.components.items() if kind is not None]
        for name in names:
            if name not in there:
                raise CheckpointError(unknown(f"{what} {name}: this {self.name} has none", name, there))


def read_index(folder: Path, checkpoint: str) -> Index:
    """What `model_index.json` names, as classes. Raises CheckpointError, which names the checkpoint."""
    if not (folder / INDEX[0]).is_file():
        kind = class_name(folder)
        raise CheckpointError(
            f"{checkpoint} is no pipeline but one network ({kind}): name the pipeline that it belongs to with "
            f"--checkpoint, and this one with --part transformer={checkpoint}"
            if kind
            else f"{checkpoint} holds no model_index.json: give the folder or hub id of a diffusers pipeline"
        )
    told = read_json(folder / INDEX[0])
    pipeline = pipeline_class(class_name(folder), checkpoint, told.get("_diffusers_version"))
    components: dict[str, type | None] = {}
    for name in inspect.signature(pipeline).parameters:
        if isinstance(value := told.get(name), list) and len(value) == 2:
            components[name] = None if value[0] is None else _component(checkpoint, name, *value)
    _check_all_there(pipeline, components, checkpoint)
    return Index(pipeline, components)


def pipeline_class(kind: str | None, checkpoint: str, version: str | None = None) -> type:
    """The class of diffusers' pipelines of this name. Raises CheckpointError; version: of diffusers that wrote it."""
    import diffusers
    from diffusers import DiffusionPipeline

    found = getattr(diffusers, kind, None) if kind and not kind.startswith("Onnx") else None
    if isinstance(found, type) and issubclass(found, DiffusionPipeline):
        return found
    if lacking := getattr(found, "_backends", None):
        raise CheckpointError(f"{checkpoint} is a {kind}, which needs {', '.join(lacking)}: {INSTALL}")
    near = near_names(kind, pipeline_names())
    meant = f"; close are {', '.join(near)}" if near else ""
    made = f" (it was written by {version})" if version else ""
    raise CheckpointError(
        f"{checkpoint} is a {kind}, which diffusers {diffusers.__version__} has not as a pipeline of torch networks"
        f"{meant}. A newer diffusers may have it{made}: pip install -U diffusers. `trace models` lists what is there"
    )


def pipeline_names() -> list[str]:
    """The names of all of diffusers' pipelines of torch networks; none of them is imported."""
    from diffusers import pipelines

    return sorted(
        name for name in dir(pipelines) if name.endswith("Pipeline") and not name.startswith(("Onnx", "Auto"))
    )


def _component(checkpoint: str, name: str, library: Any, kind: Any) -> type:
    """The class of a component, of diffusers, of transformers or of a pipeline's own file in diffusers."""
    from diffusers import pipelines
    from diffusers.pipelines.pipeline_loading_utils import simple_get_class_obj

    if library not in ("diffusers", "transformers") and not hasattr(pipelines, str(library)):
        raise CheckpointError(
            f"{checkpoint}: {name} is a {library}.{kind}, code of its own that would have to be run: it is refused. "
            "Load it yourself and hand the pipeline to tracer.from_pipeline"
        )
    try:
        found = simple_get_class_obj(library, kind)
    except (AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{checkpoint}: {name} is a {kind}, which the {library} installed here has not: pip install -U {library}"
        ) from error
    if lacking := getattr(found, "_backends", None) if not hasattr(found, "config_name") else None:
        raise CheckpointError(f"{checkpoint}: {name} is a {kind}, which needs {', '.join(lacking)}: {INSTALL}")
    return found


def _check_all_there(pipeline: Any, components: Iterable[str], checkpoint: str) -> None:
    """Raise CheckpointError where the index leaves out what the class cannot do without."""
    known = set(components)
    wanted = [
        name
        for name, parameter in inspect.signature(pipeline).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in pipeline._optional_components
    ]
    if lacking := [name for name in wanted if name not in known]:
        raise CheckpointError(
            f"{checkpoint} is not a whole {pipeline.__name__}: its model_index.json names no {', '.join(lacking)}"
        )
