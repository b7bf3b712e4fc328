from .answer.amplification import amplification as amplification
from .answer.null import null as null
from .answer.rule import Answers as Answers
from .answer.rule import decide as decide
from .answer.verdict import verdict as verdict
from .gating.gate import Gate as Gate
from .gating.gate import gate as gate
from .measure import MEASURES as MEASURES
from .measure import Measure as Measure
from .measure import Option as Option
from .measure import measure as measure
from .measures.against import against as against
from .measures.anatomy import anatomy as anatomy
from .measures.bands import bands as bands
from .measures.calibrate import calibrate as calibrate
from .measures.carried import carried as carried
from .measures.compare import compare as compare
from .measures.counterfactual import counterfactual as counterfactual
from .measures.curves import curves as curves
from .measures.decompose import decompose as decompose
from .measures.depth import depth as depth
from .measures.factors import factors as factors
from .measures.feedback import feedback as feedback
from .measures.growth import growth as growth
from .measures.impulse import impulse as impulse
from .measures.matched import matched as matched
from .measures.onset import onset as onset
from .measures.paths import paths as paths
from .measures.places import places as places
from .measures.quality import quality as quality
from .measures.renoise import renoise as renoise
from .measures.schedule import schedule as schedule
from .measures.sinks import sinks as sinks
from .measures.steps import steps as steps
from .measures.tradeoff import tradeoff as tradeoff
from .measures.words import words as words
from .page import report as report
from .viewer.widget import view as view

__all__ = [
    "MEASURES",
    "Answers",
    "Gate",
    "Measure",
    "Option",
    "against",
    "amplification",
    "anatomy",
    "bands",
    "calibrate",
    "carried",
    "compare",
    "counterfactual",
    "curves",
    "decide",
    "decompose",
    "depth",
    "factors",
    "feedback",
    "gate",
    "growth",
    "impulse",
    "matched",
    "measure",
    "null",
    "onset",
    "paths",
    "places",
    "quality",
    "renoise",
    "report",
    "schedule",
    "sinks",
    "steps",
    "tradeoff",
    "verdict",
    "view",
    "words",
]
