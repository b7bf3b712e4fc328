"""The margins of the rule, fixed before any run that it judged, and the words of its answers.

Change a number here and every verdict changes. Reasons: docs/science.md, "The rule and its margins".
"""

from __future__ import annotations

import math

MARGIN = 1.25
"""On S and on the systematic amplification: less than a quarter either way is no amplification."""
LOG_MARGIN = math.log(MARGIN)
SLOPE_MARGIN = 0.10
"""On p: a quantity may grow by 7% with every doubling of the steps, by 35% from 50 to 1000."""
WORDS_MARGIN = 1.1
"""Only an equivalence this close is called "no effect" in words."""
CALIBRATION = (0.9, 1.1)
"""A calibration slope in here is that of a posterior mean."""
SATURATED = math.sqrt(2) / 2
"""In spreads: half of the distance of two unrelated pictures; an error beyond it cannot show growth."""
LINEAR = (0.1, 0.01)
"""The doses of the linear regime."""
CONFIDENCE = (0.90, 0.95)
"""90% intervals are two one-sided tests at 5%, for equivalence; 95% for differences."""
LEVEL = 0.05
INTERMITTENCY_LEVEL = 0.01

CLAIM = "{errors} compound multiplicatively along the trajectory"
"""What is judged, of the errors that `nouns.Wording.errors` names: of masks "masking errors"."""
UNDECIDED = "undecided"
LABELS = {
    "feedback": ("amplifying", "none", "damping"),
    "along": ("amplified", "additive", "contracted"),
    "steps_answer": ("grows", "flat", "shrinks"),
}
"""Question -> the answers for above, inside and below the margins; "undecided" is the fourth of each."""
