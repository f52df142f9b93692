"""The page as people meet it: drawn whole by a browser, on a wide and on a narrow screen, without a word from it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluated_run import evaluated_run
from headless_browser import Browser, browser

from eval.report import main

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None,
    reason="chromium is not installed: apt-get install --no-install-recommends chromium",
)
_QUIET = {"Page", "Network", "Runtime.executionContextsCleared", "Runtime.executionContextCreated"}
"""What every page says; a console message, an exception, a blocked resource would be of Runtime, Log or Audits."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    directory = tmp_path_factory.mktemp("browser")
    names = ("first", "a-run-whose-name-is-long-and-has-no-place-to-break_" * 2)
    runs = [evaluated_run(directory / name, shards, seed=seed) for seed, name in enumerate(names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", *map(str, runs), "--output", str(directory / "report.html")])
        main()
    return directory / "report.html"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, False), (375, True)])
def test_the_page_is_drawn_whole_in_silence_and_asks_for_nothing(
    page: Path, window: Browser, width: int, dark: bool
) -> None:
    window.open(page, width, dark=dark)
    assert window.value("document.scrollingElement.scrollWidth <= innerWidth")
    assert window.value("document.querySelectorAll('h2').length") == 9
    sizes = window.value(
        "[...document.querySelectorAll('img, svg')].filter(e => e.checkVisibility()).map(e => "
        "{ const box = e.getBoundingClientRect();"
        "  return [box.width, box.height, e.complete === false || e.naturalWidth === 0, box.right]; })"
    )
    assert len(sizes) > 60
    assert all(w > 4 and h > 4 and not broken for w, h, broken, _ in sizes)
    pictures = window.value(
        "Promise.all([...document.querySelectorAll('svg image')].map(e => { const i = new Image();"
        " i.src = e.href.baseVal; return i.decode().then(() => i.naturalWidth); }))"
    )
    assert len(pictures) >= 4
    assert min(pictures) > 100
    told = [event for event in window.events if not {event["method"], event["method"].partition(".")[0]} & _QUIET]
    assert told == []
    asked = [event["params"] for event in window.events if event["method"] == "Network.requestWillBeSent"]
    assert {ask["request"]["url"] for ask in asked if not ask["request"]["url"].startswith("data:")} == {page.as_uri()}
    assert not [event for event in window.events if event["method"] == "Network.loadingFailed"]


def test_ink_stands_out_from_paper_in_both_schemes(page: Path, window: Browser) -> None:
    """4.5 to 1 for text, as WCAG 2.2 asks (1.4.3)."""
    for dark in (False, True):
        window.open(page, 1280, dark=dark)
        paper = luminance(window.value("getComputedStyle(document.body).backgroundColor"))
        assert (paper < 0.1) == dark
        for element in ("body", "figcaption", "a", ".verdict", "svg text", "thead th", "summary"):
            name = "fill" if "svg" in element else "color"
            ink = luminance(window.value(f"getComputedStyle(document.querySelector('{element}')).{name}"))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, (element, dark)


def test_a_page_that_would_speak_is_heard(tmp_path: Path, window: Browser) -> None:
    """Or the silence above would prove nothing."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
        "<script>console.log(1)</script><img src='file:///nowhere.png'><pre>" + 200 * "wide"
    )
    window.open(page, 375)
    assert not window.value("document.scrollingElement.scrollWidth <= innerWidth")
    methods = {event["method"] for event in window.events}
    assert "Log.entryAdded" in methods


def luminance(colour: str) -> float:
    """Relative luminance of rgb(r, g, b) (WCAG 2.2)."""
    shares = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
