"""The page's files: for everyone, whole, from this server alone, and no others."""

import re

from tests.dashboard.conftest import Start

ELSEWHERE = (
    "/fairlane/static/", "/fairlane/static/../app.py", "/fairlane/static/%2e%2e/app.py",
    "/fairlane/static/index.html", "/fairlane/static/x", "/fairlane//static/x", "/fairlane/app.py",
)  # fmt: skip


def test_the_page_is_for_everyone_and_lets_nothing_else_in(start: Start) -> None:
    host = start()
    page = host.ask("GET", "/fairlane/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert host.ask("GET", f"/fairlane/{name}").status == 200
    head = host.ask("HEAD", "/fairlane/")
    assert (head.status, head.text) == (200, "")
    assert head.headers["content-length"] == page.headers["content-length"]
    again = host.ask("GET", "/fairlane/", {"If-None-Match": page.headers["etag"]})
    assert (again.status, again.text) == (304, "")
    moved = host.ask("GET", "/fairlane")
    assert (moved.status, moved.headers["location"]) == (308, "fairlane/")
    assert host.ask("POST", "/fairlane/").status == 405


def test_there_are_no_other_files(start: Start) -> None:
    host = start()
    for path in ELSEWHERE:
        assert host.ask("GET", path).status in (401, 404), path
