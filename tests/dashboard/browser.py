"""A real browser that looks at a server's page, and keeps what must not happen.

Playwright drives Debian's Chromium, or another one that is installed: nothing is fetched. Without
one these tests are skipped, and fail where CI=true, so that they cannot be left out unnoticed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tests.conftest import IN_CI
from tests.processes import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(
    `${event.violatedDirective}: ${event.blockedURI}`));
"""


def chromium() -> str:
    """Where it is. Skips the test, or fails it in continuous integration, where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = "no Chromium is installed (Debian: apt-get install chromium)"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One without a window."""
    path = chromium()
    expect.set_options(timeout=1000 * PATIENCE_S)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # root cannot have one
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


class Tab:
    """A page in a session of its own."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.refused = {401}  # statuses that a test provokes: browsers note them, too
        self.asked: list[str] = []  # addresses
        page.set_default_timeout(1000 * PATIENCE_S)
        page.add_init_script(_VIOLATIONS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)
        page.on("request", self._note)
        page.goto(f"{url}/fairlane/")

    def _hear(self, message: Any) -> None:
        provoked = any(f"with a status of {status} " in message.text for status in self.refused)
        if message.type in ("error", "warning") and not provoked:
            self.errors.append(message.text)

    def _note(self, request: Request) -> None:
        self.asked.append(request.url)

    def sign_in(self, key: str) -> None:
        """Type it where the page asks for it."""
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_label("API key").press("Enter")

    def see(self, key: str) -> None:
        """Sign in, and wait for the first of what there is to see."""
        self.sign_in(key)
        self.page.locator("#tenants tbody tr").first.wait_for()

    def until(self, expression: str, argument: Any = None) -> None:
        """Wait until it is so in the page."""
        self.page.wait_for_function(expression, arg=argument)

    def rows(self) -> dict[str, dict[str, str]]:
        """The table of tenants as it is read: by name, what is in each column."""
        told: dict[str, dict[str, str]] = self.page.evaluate("""() => {
            const heads = [...document.querySelectorAll("#tenants thead th")];
            return Object.fromEntries(
                [...document.querySelectorAll("#tenants tbody tr")].map((row) => [
                    row.querySelector(".name").textContent,
                    Object.fromEntries(heads.map((head, i) =>
                        [head.textContent, row.children[i].textContent]))]));
        }""")
        return told

    def faults(self) -> list[str]:
        """What axe finds that is serious or worse."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['target']}: {node['failureSummary']}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def check(self) -> None:
        """Nothing went wrong, nothing is kept beyond the tab, and no other host was asked."""
        assert self.errors == [], self.errors
        found = self.page.evaluate("violations")
        assert found == [], found
        assert self.page.evaluate("localStorage.length + document.cookie.length") == 0
        assert self.page.url == f"{self.url}/fairlane/"
        hosts = {urlsplit(address).netloc for address in self.asked}
        assert hosts == {urlsplit(self.url).netloc}, hosts
        assert not any("fl-" in address for address in self.asked)


@contextmanager
def tab(started: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """Open the page of a server; options: of the session, such as its colours and size."""
    context = started.new_context(**options)
    try:
        yield Tab(context.new_page(), url)
    finally:
        context.close()
