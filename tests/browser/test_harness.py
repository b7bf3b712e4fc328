"""That the tests of this folder see what goes wrong: a request, a warning, an error."""

import pytest

from tests.browser.pages import Shown

PAGE = "<!doctype html><html lang=en><title>t</title><script>{}</script>"


@pytest.mark.parametrize(
    ("script", "noted"),
    [
        ("fetch('https://example.org/x').catch(() => 0)", "request: https://example.org/x"),
        ("console.warn('careful')", "console warning: careful"),
        ("throw new Error('broken')", "error: broken"),
        ("Promise.reject(new Error('late'))", "error: late"),
    ],
)
def test_what_goes_wrong_is_noted(show: Shown, script: str, noted: str) -> None:
    page = show(PAGE.format(script))
    for _ in range(100):
        if any(noted in each for each in show.wrong):
            break
        page.wait_for_timeout(50)
    show.close()
    wrong = list(show.wrong)
    show.wrong.clear()
    assert any(noted in each for each in wrong), wrong
