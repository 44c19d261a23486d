"""A page of the station, opened in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Request

from tests.support.browser import CHROMIUM
from tests.support.hmi import HmiBench, served

PAGE_MARKS = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
"""Of a module that tests pages."""


@asynccontextmanager
async def opened(
    browser: Browser, bench: HmiBench, size_wh: tuple[int, int] = (1280, 720), *, address: str = "/"
) -> AsyncIterator[Page]:
    """Open a page of `bench`; afterwards nothing may have been asked of another host, and nothing have gone wrong."""
    troubles: list[str] = []

    def check_host(request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob") and urlsplit(request.url).hostname != "127.0.0.1":
            troubles.append(f"request beyond this machine: {request.url}")

    async with served(bench):
        page = await browser.new_page(viewport={"width": size_wh[0], "height": size_wh[1]})
        page.on("request", check_host)
        page.on("pageerror", lambda error: troubles.append(f"script failed: {error}"))
        page.on("console", lambda entry: troubles.append(entry.text) if entry.type == "error" else None)
        await page.goto(bench.server.url + address)
        await page.locator(".page").wait_for()
        yield page
        await page.close()
    assert not troubles


async def cut_off(page: Page, selector: str) -> list[str]:
    """Return the classes of what is seen in part only."""
    return [
        str(classes)
        for classes in await page.evaluate(
            "selector => [...document.querySelectorAll(selector)]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')"
            ".map(e => e.className)",
            selector,
        )
    ]


async def lying_on(page: Page, selector: str, below: str) -> list[str]:
    """Return the texts of what is seen at `selector` and covers some of what is seen at `below`."""
    return [
        str(text)
        for text in await page.evaluate(
            """([selector, below]) => {
              const seen = each => [...document.querySelectorAll(each)].filter(e => e.getClientRects().length)
              const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
              const places = seen(below).map(e => e.getBoundingClientRect())
              return seen(selector)
                .filter(e => places.some(place => meet(e.getBoundingClientRect(), place)))
                .map(e => e.innerText)
            }""",
            [selector, below],
        )
    ]


async def too_small(page: Page) -> list[str]:
    """Return the texts of what can be touched and is lower than 44 px."""
    touched = page.locator("button:visible, a:visible")
    return [
        str(text)
        for text in await touched.evaluate_all(
            "found => found.filter(e => e.getBoundingClientRect().height < 44).map(e => e.innerText)"
        )
    ]
