"""A metric of another distribution: how bright a picture is, from 0 (black) to 1 (white)."""

from classify_clip.scores import Metric


def open_brightness(pictures, weights):
    """images -> mean brightness [n]."""
    return lambda images: images.mean((1, 2, 3)) / 255


BRIGHTNESS = Metric("brightness", "brightness", "score", True, open_brightness, default="any run")
