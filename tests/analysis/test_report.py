"""The report is one self-contained page that shows what a run supports and names what it lacks."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from analysis.common import runs
from analysis.page import report
from tests.builders import synthetic


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.headings, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[name] for name in ("src", "href") if name in values]
        self.scripts += tag in ("script", "link", "iframe")
        self.headings += [values["id"]] if tag == "h2" and "id" in values else []


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_the_page_fetches_nothing_and_runs_nothing():
    tags = read(report(synthetic.gaussian_run(), ("growth", "decompose")))
    assert tags.scripts == 0
    assert len(tags.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)


def test_a_measure_without_its_record_is_named_with_the_option_to_type():
    page = report(synthetic.gaussian_run(decomposition=False, null=False), ("growth", "decompose", "impulse"))
    assert read(page).headings == ["growth"]
    assert "--record decomposition" in page
    assert "--mask R4S32@steps=0:1" in page


def test_the_sentence_of_a_measure_stands_on_the_page():
    import analysis

    run = synthetic.gaussian_run()
    sentence = analysis.growth.sentence(analysis.growth(run))
    assert sentence in html.unescape(re.sub(r"<[^>]+>", "", report(run, ("growth",))))


def test_pictures_show_every_whole_arm_and_at_most_eight_samples():
    import base64
    import io

    from PIL import Image

    run = synthetic.gaussian_run(samples=10)
    pixels = np.zeros((3, 10, 4, 5, 3), np.uint8)
    pixels[1] = 200
    image = (("arm", "sample", "image_y", "image_x", "rgb"), pixels)
    run["images"] = run["metrics"].to_dataset()[["arm", "sample"]].assign(image=image)
    source = read(report(run, ())).sources[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert shown.shape == (3 * 4, 8 * 5, 3)
    assert (shown[4:8] == 200).all()
    assert (shown[:4] == 0).all()


def test_text_of_the_run_is_escaped():
    run = synthetic.gaussian_run()
    run.attrs["provenance"] = '{"note": "<script>alert(1)</script>"}'
    assert read(report(run, ())).scripts == 0


def test_a_run_without_complete_samples_is_refused():
    run = synthetic.gaussian_run()
    run["status"][:] = 0
    with pytest.raises(runs.RunError, match="--resume"):
        report(run, ())
