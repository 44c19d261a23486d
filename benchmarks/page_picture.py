"""Takes the picture of the operators' page for the README: `python -m benchmarks.page_picture [-o docs/page.png]`.

Runs `cangate demo` and waits until a damaged part is shown. Needs Chromium, as the page test does.
"""

from __future__ import annotations

import argparse
import io
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.support.browser import CHROMIUM, CHROMIUM_ARGS

_PARTS = 60
_PATIENCE_S = 300


def main() -> None:
    """Run the demo and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/page.png"))
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("cangate")), "demo", "--parts", "0", "--port", str(port)]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for_parts(demo, url)
        picture = _photograph(url, tuple(arguments.size))
    finally:
        demo.terminate()
        demo.wait(20)
    Image.open(io.BytesIO(picture)).convert("RGB").save(arguments.output, optimize=True)
    print(f"{arguments.output}: {arguments.output.stat().st_size // 1024} KiB")


def _wait_for_parts(demo: subprocess.Popen[bytes], url: str) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    with httpx.Client(base_url=url, trust_env=False) as client:
        while time.monotonic() < give_up:
            if demo.poll() is not None:
                raise SystemExit(f"cangate demo ended with {demo.returncode}")
            try:
                if len(client.get("/api/verdicts", params={"limit": _PARTS}).json()) == _PARTS:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise SystemExit(f"no {_PARTS} parts within {_PATIENCE_S} s")


def _photograph(url: str, size_wh: tuple[int, int]) -> bytes:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": size_wh[0], "height": size_wh[1]})
        page.goto(url)
        page.wait_for_selector(".trend canvas")
        damaged = page.locator(".hero.DAMAGED .part")
        picture, same_part = b"", False
        while not same_part:  # the line does not stand still for a picture
            part = damaged.inner_text(timeout=60_000)
            page.wait_for_function("document.querySelector('.picture img').complete")
            picture = page.screenshot()
            same_part = damaged.all_inner_texts() == [part]
        browser.close()
    return picture


if __name__ == "__main__":
    main()
