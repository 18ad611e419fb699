"""The page in a real browser, before a real gateway and a simulated engine.

With FAIRLANE_PICTURES=docs/images it also writes the pictures that the documents show, after some
minutes of load; else it looks as soon as there is something to see.
"""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, expect

from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Role, Tenant, Tenants
from fairlane.experiments.show import Show
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import DrainingServer, Running
from fairlane.http_server import in_thread
from tests.dashboard.browser import Tab, browser, tab
from tests.door.town import Town
from tests.gateway.crowd import Crowd
from tests.gateway.site import Site, gateway, port_of, serving
from tests.simulated.engines import running
from tests.talking import until

PICTURES = os.environ.get("FAIRLANE_PICTURES")
LOADED_S = 75 if PICTURES else 0  # before anything is changed, and once more after it
PHONE = {"width": 390, "height": 844}
SCREEN = {"width": 1360, "height": 900}
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page")]


class Place(NamedTuple):
    """A gateway on a simulated engine, and who may use it."""

    engine: str  # its address
    site: Site
    town: Town
    chromium: Browser

    def tab(self, **options: Any) -> AbstractContextManager[Tab]:
        """The page, in a session of its own."""
        return tab(self.chromium, self.site.url, **options)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with running(model="tiny", max_num_seqs=4, speed=1.0) as engine:
        yield engine.url


@pytest.fixture(scope="module")
def place(
    chromium: Browser, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    town = Town(tmp_path_factory.mktemp("town"))
    town.add("root", role=Role.OPERATOR)
    town.add("gate", role=Role.GATEWAY)
    for name in ("globex", "hooli", "initech", "umbrella"):
        town.add(name)
    town.add("acme", with_key=False)
    town.add("chat", parent="acme")
    town.add("search", parent="acme")
    kept = {"database": "usage.sqlite", "every_s": 0.1}
    tables = town.document(dashboard={"changes": True}, usage=kept)
    with gateway(engine, folder=town.folder, **tables) as site:
        yield Place(engine, site, town, chromium)


def load(site: Site, town: Town, **workers: int) -> Crowd:
    """Clients that keep so many requests under way each."""
    who = {name: (town.keys[name], count) for name, count in workers.items()}
    return Crowd(site, who, streams=True)


# Whether `first` lately got more than so many times what `second` got, by what the table shows.
SHARES = """([first, second, least, most]) => {
    const part = (name) => {
        const found = [...document.querySelectorAll("#tenants tbody tr")]
            .find((row) => row.querySelector(".name").textContent === name);
        return found ? parseFloat(found.querySelector(".share .of").textContent) : NaN;
    };
    const ratio = part(first) / part(second);
    return part(second) > 5 && ratio >= least && ratio <= most;
}"""


def test_an_operator_sees_who_gets_what_and_changes_it(
    chromium: Browser, engine: str, tmp_path: Path
) -> None:
    pictures = Path(PICTURES) if PICTURES else tmp_path
    town = Town(tmp_path)
    town.add("root", role=Role.OPERATOR)
    for name in ("acme", "globex", "hooli", "initech", "umbrella"):
        town.add(name)
    tables = {"tenants": town.file.name, "dashboard": {"changes": True}}
    config = GatewayConfig.parse({**tables, "upstreams": {"engine-1": {"url": engine}}}, tmp_path)
    with (
        serving(Running(config, name="gateway-1")) as site,
        tab(chromium, site.url, viewport=SCREEN, color_scheme="light") as seen,
        load(site, town, acme=3, globex=8, hooli=10, initech=1),
    ):
        page = seen.page
        seen.see(town.keys["root"])
        page.evaluate("""() => {
            const chart = document.querySelector("#service");
            window.drawn = () => chart.querySelector("canvas").toDataURL();
            window.told = () => chart.getAttribute("aria-label");
        }""")
        seen.until("() => /globex [1-9].*hooli [1-9]|hooli [1-9].*globex [1-9]/.test(told())")
        before = page.evaluate("[drawn(), told()]")
        seen.until("([drawn_, told_]) => drawn() !== drawn_ && told() !== told_", before)
        seen.until(SHARES, ["globex", "hooli", 0.67, 1.5])
        page.wait_for_timeout(1000 * LOADED_S)
        rows = seen.rows()
        assert rows.keys() == {"acme", "globex", "hooli", "initech", "root", "umbrella"}
        assert rows["globex"]["Requests"] != "0"
        expect(page.locator("#waiters")).to_contain_text("globex")
        seen.until("() => /p99.*[0-9] m?s/.test(document.querySelector('#ttft').ariaLabel)")
        expect(page.locator("#upstreams tbody tr")).to_have_count(1)
        expect(page.locator("#upstreams tbody")).to_contain_text("tiny")

        page.locator("#tenants").get_by_role("button", name="globex").click()
        page.get_by_label("Weight", exact=True).fill("3")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("dialog [role=status]").first).to_have_text("Saved.")
        assert seen.faults() == []
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_be_hidden()
        seen.until(SHARES, ["globex", "hooli", 2.0, 4.5])
        page.wait_for_timeout(1000 * LOADED_S)
        assert seen.rows()["globex"]["Weight"] == "3"

        for theme, other in (("light", "Dark"), ("dark", "Light")):
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            assert seen.faults() == []
            page.screenshot(path=pictures / f"dashboard-{theme}.png", full_page=True)
            page.get_by_role("button", name=other).click()
        seen.check()


def test_it_goes_on_while_the_live_demonstration_changes_the_scheduler(
    chromium: Browser, tmp_path: Path
) -> None:
    """What the README begins with: the light tenant is let through, before one's eyes."""
    pictures = Path(PICTURES) if PICTURES else tmp_path
    with Show() as show, tab(chromium, show.url, viewport=SCREEN) as seen:
        page = seen.page
        facts = page.locator("#facts")
        expect(facts).to_contain_text("FCFS")
        expect(page.locator("#tenants tbody")).to_contain_text("light")
        page.wait_for_timeout(500 * LOADED_S)
        show.switch()
        expect(facts).to_contain_text("VTC")
        seen.until(SHARES, ["light", "flood", 0.25, 9.0])  # of 3 requests to 60, one to twenty
        page.wait_for_timeout(500 * LOADED_S)
        for theme in ("light", "dark"):
            page.screenshot(path=pictures / f"live-{theme}.png")
            page.locator("#theme").click()
        seen.check()


def test_a_group_opens_into_its_members(place: Place) -> None:
    with place.tab() as seen:
        page = seen.page
        seen.see(place.town.keys["root"])
        assert {"acme", "globex"} < seen.rows().keys()
        page.get_by_role("button", name="2 members").click()
        expect(page.locator("#service-title")).to_have_text("Service in acme")
        assert seen.rows().keys() == {"acme/chat", "acme/search"}
        page.get_by_role("button", name="All tenants").click()
        assert "globex" in seen.rows()
        page.locator("#tenants").get_by_role("button", name="acme").first.click()
        page.get_by_role("button", name="Show its 2 members").click()
        assert seen.rows().keys() == {"acme/chat", "acme/search"}
        assert seen.faults() == []
        seen.check()


def test_what_a_tenant_used_is_there_by_day_and_model(place: Place) -> None:
    asked = "/fairlane/usage?by=day,model&tenant=umbrella"
    for _ in range(3):
        assert place.site.complete(7, place.town.keys["umbrella"])[0] == 200
    root = place.town.keys["root"]

    def kept() -> list[dict[str, Any]]:
        answer = place.site.request("GET", asked, key=root)[2]
        rows: list[dict[str, Any]] = json.loads(answer)["rows"]
        return rows

    until(lambda: [row["output_tokens"] for row in kept()] == [21])
    [row] = kept()
    with place.tab() as seen:
        page = seen.page
        seen.see(root)
        page.locator("#tenants").get_by_role("button", name="umbrella").click()
        page.get_by_text("Usage of the last 30 days").click()
        used = page.get_by_role("table", name="Usage by day and model")
        expect(used.locator("tbody tr")).to_have_count(1)
        shown = used.locator("tbody tr").inner_text().split()
        assert shown[:3] == [row["day"], "tiny", "3"]
        assert str(row["output_tokens"]) in shown
        assert seen.faults() == []
        seen.check()


def test_limits_and_keys_that_are_changed_there_act(place: Place) -> None:
    with place.tab() as seen:
        page = seen.page
        seen.see(place.town.keys["root"])
        page.locator("#tenants").get_by_role("button", name="initech").click()
        told = page.locator("dialog [role=status]").first
        page.get_by_label("Requests a minute").fill("1")
        page.get_by_role("button", name="Save").click()
        expect(told).to_have_text("Saved.")
        key = place.town.keys["initech"]
        assert [place.site.complete(1, key)[0] for _ in range(2)] == [200, 429]
        expect(page.locator("#refused")).to_contain_text("requests per minute")
        seen.refused.add(400)
        page.get_by_label("Requests a minute").fill("0")
        page.get_by_role("button", name="Save").click()
        expect(told).to_contain_text("requests_per_minute")  # what is wrong, and how it must be
        page.get_by_label("Requests a minute").fill("")
        page.get_by_role("button", name="Save").click()
        expect(told).to_have_text("Saved.")
        assert place.site.complete(1, key)[0] == 200

        page.get_by_text("API keys").click()
        keys = page.locator("dialog .keys li")
        expect(keys).to_have_count(1)
        known = keys.locator("code").inner_text()
        page.get_by_role("button", name="New key").click()
        fresh = page.get_by_label("The new key").input_value()
        expect(keys).to_have_count(2)
        assert place.site.complete(1, fresh)[0] == 200
        old = keys.filter(has_text=known)
        old.get_by_role("button", name="Revoke").click()
        old.get_by_role("button", name="Revoke it now").click()
        expect(keys).to_have_count(1)
        assert place.site.complete(1, key)[0] == 401
        assert place.site.complete(1, fresh)[0] == 200
        place.town.keys["initech"] = fresh
        page.get_by_role("button", name="Close").click()
        assert fresh not in page.content()  # it was shown once
        seen.check()


FORGED = "<img src=x onerror=\"document.title='forged'\">"
ARABIC = "\u0623\u062d\u0645\u062f 9%"


def test_names_that_clients_forge_are_shown_as_text(place: Place) -> None:
    body = {"model": "tiny", "prompt": "a b", "max_tokens": 4}
    key = place.town.keys["gate"]
    for name in (FORGED, ARABIC):
        named = {"x_fairlane_client": name.encode().decode("latin-1")}
        assert place.site.request("POST", "/v1/completions", body, key, **named)[0] == 200
    with place.tab() as seen:
        seen.see(place.town.keys["root"])
        for name in (FORGED, ARABIC):
            seen.page.get_by_label("Search tenants").fill(name.split()[0])
            row = seen.page.locator("#tenants tbody tr")
            expect(row).to_have_count(1)
            shown = row.locator("bdi")
            assert shown.inner_text() == name.replace("%", "%25")  # as paths have it
            assert shown.evaluate("(it) => getComputedStyle(it).unicodeBidi") == "isolate"
            row.get_by_role("button").first.click()
            expect(seen.page.locator("dialog h2")).to_have_text(name.replace("%", "%25"))
            seen.page.keyboard.press("Escape")
        assert seen.page.locator("main img").count() == 0
        assert seen.page.title() == "Fairlane"
        spelt = "import('./static/dom.js').then(({ shown }) => shown('a\\u202eb\\u200bc d'))"
        assert seen.page.evaluate(spelt) == r"a\u{202e}b\u{200b}c d"
        seen.check()


def test_wrong_keys_see_nothing_and_a_client_itself_alone(place: Place) -> None:
    with place.tab() as seen:
        page = seen.page
        expect(page.get_by_label("API key")).to_be_focused()
        seen.sign_in("fl-" + "x" * 43)
        expect(page.locator("#sign-in-error")).not_to_be_empty()
        expect(page.locator("#board")).to_be_hidden()
        assert seen.rows() == {}
        assert page.evaluate("sessionStorage.getItem('fairlane-key')") is None
        assert seen.faults() == []

        seen.see(place.town.keys["globex"])
        expect(page.locator("#facts")).to_contain_text("your own view")
        assert seen.rows().keys() == {"globex"}
        expect(page.locator("#difference-card")).to_be_hidden()
        expect(page.locator("#upstreams-card")).to_be_hidden()
        page.locator("#tenants").get_by_role("button", name="globex").click()
        expect(page.locator("dialog .tiles")).to_contain_text("Weight")
        assert page.get_by_role("button", name="Save").count() == 0
        page.keyboard.press("Escape")
        assert not any(name in page.content() for name in ("hooli", "acme", "initech"))

        page.reload()  # still the same tab
        page.locator("#tenants tbody tr").first.wait_for()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_focused()
        assert "globex" not in page.content()
        assert page.evaluate("sessionStorage.getItem('fairlane-key')") is None
        page.reload()
        expect(page.get_by_label("API key")).to_be_focused()
        seen.check()


# What can be used, and where the keyboard has been.
REACHED = """() => {
    const usable = "a[href], button:not(:disabled), input, [tabindex='0']";
    window.missed = () => [...document.querySelectorAll(usable)]
        .filter((it) => it.checkVisibility() && !window.reached.has(it)).map((it) => it.outerHTML);
    window.reached = new Set();
    document.addEventListener("focusin", (event) => reached.add(event.target));
}"""


def test_the_keyboard_alone_reaches_everything(place: Place) -> None:
    with place.tab(viewport=SCREEN) as seen:
        page = seen.page
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type(place.town.keys["root"])
        page.keyboard.press("Enter")
        page.locator("#tenants tbody tr").first.wait_for()
        page.evaluate(REACHED)
        for _ in range(120):
            page.keyboard.press("Tab")
        assert page.evaluate("missed()") == []

        first = page.locator("#tenants").get_by_role("button", name="globex")
        first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("dialog")).to_be_visible()
        page.evaluate(REACHED)
        for _ in range(40):
            page.keyboard.press("Tab")
        assert [it for it in page.evaluate("missed()") if "change-" in it or "Close" in it] == []
        page.keyboard.press("Escape")
        expect(first).to_be_focused()

        head = page.locator("#tenants thead th.client")
        head.get_by_role("button").focus()
        for order in ("ascending", "descending"):
            page.keyboard.press("Enter")
            expect(head).to_have_attribute("aria-sort", order)
            names = list(seen.rows())
            assert names == sorted(names, reverse=order == "descending")
        seen.check()


def test_a_thousand_tenants_on_a_phone(place: Place, tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("root", role=Role.OPERATOR)

    def more(tenants: Tenants) -> Tenants:
        for i in range(1000):
            tenants = tenants.with_tenant(Tenant(f"tenant-{i:03}"))
        return tenants

    change_tenants(town.file, more)
    with (
        gateway(place.engine, folder=tmp_path, **town.document()) as site,
        tab(
            place.chromium, site.url, viewport=PHONE, has_touch=True, color_scheme="dark",
            reduced_motion="reduce",
        ) as seen,
    ):  # fmt: skip
        page = seen.page
        seen.see(town.keys["root"])
        expect(page.locator("#page-note")).to_have_text("1 to 20 of 1,001")
        assert page.locator("#tenants tbody tr").count() == 20
        page.locator("#tenants th.client button").first.tap()
        page.get_by_role("button", name="Next").tap()
        assert list(seen.rows())[-1] == "tenant-038"  # root is first
        page.get_by_label("Search tenants").fill("777")
        expect(page.locator("#tenants tbody tr")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert seen.faults() == []
        page.locator("#tenants tbody button").tap()
        expect(page.locator("dialog h2")).to_have_text("tenant-777")
        assert page.get_by_role("button", name="Save").count() == 0  # changes are off here
        assert seen.faults() == []
        page.get_by_role("button", name="Close").tap()
        seen.check()


def test_it_comes_back_by_itself_and_says_so(place: Place, tmp_path: Path) -> None:
    config = GatewayConfig.parse(
        place.town.document(upstreams={"one": {"url": place.engine}}), place.town.folder
    )

    def start(port: int = 0) -> AbstractContextManager[str]:
        return in_thread(lambda ready: DrainingServer(Running(config), ready), port=port)

    with ExitStack() as life:
        first = ExitStack()
        url = first.enter_context(start())
        seen = life.enter_context(tab(place.chromium, url))
        seen.see(place.town.keys["root"])
        link = seen.page.locator("#link")
        expect(link).to_have_text("Live")
        first.close()
        expect(link).to_contain_text("Connection lost")
        life.enter_context(start(port_of(url)))
        expect(link).to_have_text("Live")
        seen.page.locator("#tenants tbody tr").first.wait_for()
