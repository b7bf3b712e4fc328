from .attention_locality import locality as locality
from .blocks import Stack as Stack
from .blocks import depth as depth
from .blocks import embedded_stacks as embedded_stacks
from .blocks import trace_blocks as trace_blocks
from .classification import classify as classify
from .data import DataError as DataError
from .data import held_out as held_out
from .generation import score_runs as score_runs
from .models import Classifier as Classifier
from .models import ModelError as ModelError
from .models import Retriever as Retriever
from .models import load_classifier as load_classifier
from .models import load_retriever as load_retriever
from .one_pass import denoise as denoise
from .retrieval import retrieve as retrieve
from .scores.metric import METRICS as METRICS
from .scores.metric import Metric as Metric
from .scores.pictures import Pictures as Pictures
from .scores.scoring import score as score
from .scores.weights import ScoreError as ScoreError

__all__ = [
    "METRICS",
    "Classifier",
    "DataError",
    "Metric",
    "ModelError",
    "Pictures",
    "Retriever",
    "ScoreError",
    "Stack",
    "classify",
    "denoise",
    "depth",
    "embedded_stacks",
    "held_out",
    "load_classifier",
    "load_retriever",
    "locality",
    "retrieve",
    "score",
    "score_runs",
    "trace_blocks",
]
