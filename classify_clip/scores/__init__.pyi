from .metric import METRICS as METRICS
from .metric import Metric as Metric
from .pictures import Pictures as Pictures
from .scoring import score as score
from .weights import ScoreError as ScoreError

__all__ = ["METRICS", "Metric", "Pictures", "ScoreError", "score"]
