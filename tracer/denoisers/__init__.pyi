from .base import CheckpointError as CheckpointError
from .base import Denoiser as Denoiser
from .base import DeviceError as DeviceError
from .base import Evaluation as Evaluation
from .base import ModelFamily as ModelFamily
from .base import Moment as Moment
from .base import OptionalParts as OptionalParts
from .base import Sample as Sample
from .base import optional_parts as optional_parts
from .images import from_uint8 as from_uint8
from .images import to_uint8 as to_uint8
from .registry import MODELS as MODELS
from .registry import load as load
from .registry import usable_device as usable_device

__all__ = [
    "MODELS",
    "CheckpointError",
    "Denoiser",
    "DeviceError",
    "Evaluation",
    "ModelFamily",
    "Moment",
    "OptionalParts",
    "Sample",
    "from_uint8",
    "load",
    "optional_parts",
    "to_uint8",
    "usable_device",
]
