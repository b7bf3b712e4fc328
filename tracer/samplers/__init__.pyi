from .base import PREDICTIONS as PREDICTIONS
from .base import Earlier as Earlier
from .base import Level as Level
from .base import Move as Move
from .base import Prediction as Prediction
from .base import Probe as Probe
from .base import Sampler as Sampler
from .base import SamplerError as SamplerError
from .base import Schedule as Schedule
from .base import epsilon_and_x0 as epsilon_and_x0
from .registry import SAMPLERS as SAMPLERS
from .registry import noise_levels as noise_levels

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "Earlier",
    "Level",
    "Move",
    "Prediction",
    "Probe",
    "Sampler",
    "SamplerError",
    "Schedule",
    "epsilon_and_x0",
    "noise_levels",
]
