from .arm import arm as arm
from .denoisers.base import CheckpointError as CheckpointError
from .denoisers.base import Denoiser as Denoiser
from .denoisers.base import DeviceError as DeviceError
from .denoisers.base import Evaluation as Evaluation
from .denoisers.base import ModelFamily as ModelFamily
from .denoisers.base import Moment as Moment
from .denoisers.base import Sample as Sample
from .denoisers.pipeline.call import CallError as CallError
from .denoisers.pipeline.face import from_pipeline as from_pipeline
from .denoisers.pipeline.trying import ProbeError as ProbeError
from .denoisers.registry import MODELS as MODELS
from .denoisers.registry import load as load
from .opened import open_run as open_run
from .prompts import PromptError as PromptError
from .request import PlanError as PlanError
from .request import Request as Request
from .run import trace as trace
from .samplers.base import Earlier as Earlier
from .samplers.base import Level as Level
from .samplers.base import Move as Move
from .samplers.base import Prediction as Prediction
from .samplers.base import Probe as Probe
from .samplers.base import Sampler as Sampler
from .samplers.base import SamplerError as SamplerError
from .samplers.base import Schedule as Schedule
from .samplers.registry import SAMPLERS as SAMPLERS
from .store import RunError as RunError
from .store import open_sweep as open_sweep

__all__ = [
    "MODELS",
    "SAMPLERS",
    "CallError",
    "CheckpointError",
    "Denoiser",
    "DeviceError",
    "Earlier",
    "Evaluation",
    "Level",
    "ModelFamily",
    "Moment",
    "Move",
    "PlanError",
    "Prediction",
    "Probe",
    "ProbeError",
    "PromptError",
    "Request",
    "RunError",
    "Sample",
    "Sampler",
    "SamplerError",
    "Schedule",
    "arm",
    "from_pipeline",
    "load",
    "open_run",
    "open_sweep",
    "trace",
]
