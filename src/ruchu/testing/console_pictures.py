"""Pictures of every page of the console, on a sample server: what `make screenshots` runs.

    python -m ruchu.testing.console_pictures DIRECTORY [PART]
    python -m ruchu.testing.console_pictures --chosen DIRECTORY

in both languages, three sizes, light and dark; of the pages whose path has a PART, if one is given.
`--chosen` takes the few that the documents show, small.
"""

import base64
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from ruchu.testing import browsers, console_sample
from ruchu.testing.console_sample import Sample

LANGUAGES, THEMES = ("en", "zh"), ("light", "dark")
# What the documents show: the page, and how it is looked at.
CHOSEN = {
    "dashboard": ("/", "desktop", "en", "light"),
    "wall": ("/wall", "desktop", "zh", "dark"),
    "restore-timeline": ("/restore/machine", "desktop", "en", "light"),
    "policy-wizard": ("/policies/{policy}/edit", "desktop", "en", "dark"),
    "phone": ("/", "phone", "zh", "light"),
}
# Half the size of a PNG of so many colours, and the browser that is there can do it.
_TO_WEBP = """async (shot) => {
    const image = new Image();
    image.src = `data:image/png;base64,${shot}`;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL('image/webp', 0.82);
}"""


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
            target = folder / f"{name}_{size}_{language}_{theme}.png"
            if path == "/wall":
                # Everything on it is measured by the height of the window.
                visitor.page.screenshot(path=target, full_page=True)
                continue
            _stretch(visitor.page, window)
            visitor.page.screenshot(path=target)
            visitor.page.set_viewport_size(window)
        # What goes wrong on a page is the business of tests; a picture shows it as it is.
        visitor.watch.faults.clear()


def _stretch(page: Page, window: ViewportSize) -> None:
    """Make the window as high as the page: what sticks to its edges stays where it belongs."""
    high = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": max(high, window["height"])})
    browsers.settle(page)


def take_chosen(started: Browser, made: Sample, folder: Path) -> int:
    """Take those that the documents show: a window each, as WebP; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (path, size, language, theme) in CHOSEN.items():
        with browsers.visitor(
            started, made.console, size=browsers.SIZES[size], language=language, theme=theme
        ) as visitor:
            browsers.show(visitor.page, made.address(path))
            shot = base64.b64encode(visitor.page.screenshot()).decode()
            content = visitor.page.evaluate(_TO_WEBP, shot).partition(",")[2]
            (folder / f"{name}.webp").write_bytes(base64.b64decode(content))
    return len(CHOSEN)


def main() -> None:
    """Take pictures of a sample server that is started for it."""
    words = [word for word in sys.argv[1:] if word != "--chosen"]
    folder, part = Path(words[0]), words[1] if len(words) > 1 else ""
    with (
        tempfile.TemporaryDirectory(prefix="ruchu-pictures-") as home,
        console_sample.sample(Path(home)) as made,
        browsers.browser() as started,
    ):
        if "--chosen" in sys.argv:
            count = take_chosen(started, made, folder)
        else:
            count = take(started, made, folder, part)
    sys.stdout.write(f"Written: {count} pictures in {folder}\n")


if __name__ == "__main__":
    main()
