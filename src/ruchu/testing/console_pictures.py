"""Pictures of every page of the console, on a sample server: what `make screenshots` runs.

    python -m ruchu.testing.console_pictures DIRECTORY [PART]

in both languages, three sizes, light and dark; of the pages whose path has a PART, if one is given.
"""

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from ruchu.testing import browsers, console_sample
from ruchu.testing.console_sample import Sample

LANGUAGES, THEMES = ("en", "zh"), ("light", "dark")


def take(started: Browser, made: Sample, folder: Path, part: str = "") -> int:
    """Take the pictures; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = [(size, language, theme) for size in browsers.SIZES for language in LANGUAGES
             for theme in THEMES]  # fmt: skip
    paths = [path for path in console_sample.pages() if part in path]
    for look in looks:
        _of_look(started, made, look, (folder, paths))
        sys.stdout.write(f"{' '.join(look)}: {len(paths)} pages\n")
        sys.stdout.flush()
    return len(looks) * len(paths)


def _of_look(
    started: Browser, made: Sample, look: tuple[str, str, str], wanted: tuple[Path, list[str]]
) -> None:
    size, language, theme = look
    folder, paths = wanted
    window = browsers.SIZES[size]
    with browsers.visitor(
        started, made.console, size=window, language=language, theme=theme
    ) as visitor:
        for path in paths:
            browsers.show(visitor.page, made.address(path))
            name = re.sub(r"[^a-z]+", "-", path).strip("-") or "dashboard"
            _stretch(visitor.page, window)
            visitor.page.screenshot(path=folder / f"{name}_{size}_{language}_{theme}.png")
            visitor.page.set_viewport_size(window)
        # What goes wrong on a page is the business of tests; a picture shows it as it is.
        visitor.watch.faults.clear()


def _stretch(page: Page, window: ViewportSize) -> None:
    """Make the window as high as the page: what sticks to its edges stays where it belongs."""
    high = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": max(high, window["height"])})
    browsers.settle(page)


def main() -> None:
    """Take pictures of a sample server that is started for it."""
    folder, part = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    with (
        tempfile.TemporaryDirectory(prefix="ruchu-pictures-") as home,
        console_sample.sample(Path(home)) as made,
        browsers.browser() as started,
    ):
        count = take(started, made, folder, part)
    sys.stdout.write(f"Written: {count} pictures in {folder}\n")


if __name__ == "__main__":
    main()
