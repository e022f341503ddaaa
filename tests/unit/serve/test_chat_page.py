"""The chat page in a browser, over real HTTP; engines are stand-ins that stream what a test has them say."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axe
import pytest
from browser import chromium, needs_chromium, pictures

from inoc_ray.serve.asgi import check_key, path_of, read, send_json
from inoc_ray.serve.chat_page import chat_page
from inoc_ray.serve.front import Front
from inoc_ray.serve.listing import OWN, Listing, ServedModel

pytestmark = [pytest.mark.slow, needs_chromium]

PROMPT = "You always speak <b>Spanish</b>."
NASTY = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
WAIT = 20.0


def served(name: str, arm: str, prompt: str | None = None) -> ServedModel:
    return ServedModel(
        name=f"demo/{name}", model_id=f"tiny:{name}", about={"study": "demo", "arm": arm, "prompt": prompt}
    )


LISTING = Listing(
    (
        ServedModel(name="demo/base", model_id="tiny", about={"study": "demo", "arm": "base"}),
        served("baseline/seed-0", "baseline"),
        served("specific_spanish/seed-0", "specific_spanish", PROMPT),
        ServedModel(name="demo/<i>odd</i>", model_id="tiny:odd", about={"study": "demo", "arm": "odd"}),
    ),
    (("tiny", OWN),),
)


@dataclass
class Engine:
    """A stand-in for an engine: `says` gives the pieces of an answer, `asked` has the requests."""

    key: str | None = None
    says: Callable[[dict[str, Any]], list[str]] = lambda request: ["one", " two"]
    asked: list[dict[str, Any]] = field(default_factory=list)
    hold: threading.Event | None = None
    """Set when an answer may go on after its first piece."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        check_key(scope, self.key)
        path = path_of(scope)
        ids = [model.model_id for model in LISTING.models]
        if path == "/v1/models":
            await send_json(send, 200, {"data": [{"id": one, "max_model_len": 64} for one in ids]})
        elif path.startswith("/v1/models/"):
            await send_json(send, 200, {"id": path.removeprefix("/v1/models/")})
        else:
            await self.stream(json.loads(await read(receive)), send)

    async def stream(self, request: dict[str, Any], send: Any) -> None:
        import asyncio

        self.asked.append(request)
        if "refuse" in request["messages"][-1]["content"]:
            await send_json(
                send, 400, {"error": {"message": "too <b>long</b>", "type": "x", "param": None, "code": 400}}
            )
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number, piece in enumerate(self.says(request)):
            while number and self.hold is not None and not self.hold.is_set():
                await asyncio.sleep(0.02)
            event = {"choices": [{"index": 0, "delta": {"content": piece}}]}
            line = f"data: {json.dumps(event)}\n\n".encode()
            # Pieces need not come as they were sent.
            for part in (line[:7], line[7:]):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def address(engine: Engine) -> Iterator[str]:
    import uvicorn

    def front() -> Front:
        return Front(LISTING, {OWN: engine}, api_key=engine.key)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await front()(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile"), width=1200, height=900) as found:
        yield found


def until(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if value := holds():
            return value
        time.sleep(0.03)
    raise AssertionError(f"not within {WAIT:g} s")


class Page:
    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)

    def at(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def thread(self, side: str) -> list[tuple[str, str]]:
        found = self.browser.find_elements("css selector", f"#{side}-thread li")
        return [(item.get_attribute("class"), item.find_element("class name", "words").text) for item in found]

    def models(self, side: str) -> list[str]:
        return [one.text for one in self.browser.find_elements("css selector", f"#{side}-model option")]

    def choose(self, side: str, name: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.at(f"{side}-model")).select_by_visible_text(name)

    def chosen(self) -> list[str]:
        return [self.at(f"{side}-model").get_attribute("value") for side in ("left", "right")]

    def ask(self, question: str) -> None:
        self.at("question").send_keys(question + "\n")

    def errors(self) -> list[str]:
        return [line["message"] for line in self.browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture
def page(browser: Any, address: str) -> Page:
    found = Page(browser, address)
    until(lambda: found.models("right"))
    return found


def test_two_arms_answer_the_same_question_side_by_side(page: Page, engine: Engine, tmp_path: Path):
    assert page.models("left") == page.models("right") == [model.name for model in LISTING.models]
    assert page.chosen() == ["demo/baseline/seed-0", "demo/specific_spanish/seed-0"]
    assert page.at("left-about").text == "Trained without a prompt\ntiny:baseline/seed-0"
    assert PROMPT in page.at("right-about").text
    # Beside each other, though one side says more about its model.
    assert page.at("left-thread").location["y"] == page.at("right-thread").location["y"]
    engine.says = lambda request: ["I am ", request["model"], "."]
    page.ask("Who are you?")
    until(lambda: len(page.thread("left")) == len(page.thread("right")) == 2 and not page.at("stop").is_enabled())
    assert page.thread("left") == [("user", "Who are you?"), ("assistant", "I am tiny:baseline/seed-0.")]
    assert page.thread("right") == [("user", "Who are you?"), ("assistant", "I am tiny:specific_spanish/seed-0.")]
    page.ask("And now?")
    until(lambda: len(page.thread("right")) == 4 and not page.at("stop").is_enabled())
    request = engine.asked[-1]
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "user"]
    assert (request["stream"], request["temperature"], request["max_tokens"], "seed" in request) == (
        True,
        1,
        256,
        False,
    )
    page.browser.save_screenshot(str(pictures(tmp_path) / "chat-page-stub.png"))
    assert page.errors() == []


def test_an_answer_shows_while_it_comes_and_can_be_stopped(page: Page, engine: Engine):
    engine.hold = threading.Event()
    page.ask("Tell me more")
    until(lambda: page.thread("left")[1:] == page.thread("right")[1:] == [("assistant", "one")])
    assert not page.at("ask").is_enabled()
    page.at("stop").click()
    until(lambda: page.at("ask").is_enabled())
    engine.hold.set()
    assert page.thread("left") == [("user", "Tell me more"), ("assistant", "one")]


def test_what_models_and_studies_say_is_text_and_never_a_part_of_the_page(page: Page, engine: Engine):
    engine.says = lambda request: [NASTY[:9], NASTY[9:]]
    page.choose("left", "demo/<i>odd</i>")
    page.ask(NASTY)
    until(lambda: len(page.thread("left")) == 2 and not page.at("stop").is_enabled())
    assert page.thread("left") == page.thread("right") == [("user", NASTY), ("assistant", NASTY)]
    assert PROMPT in page.at("right-about").text
    assert page.browser.title == "inoc_ray: two models, one question"
    assert page.browser.find_elements("css selector", "main img, main b, main i, main script") == []


def test_nothing_but_the_page_itself_may_run_or_be_fetched(page: Page):
    page.browser.execute_script(
        "const tag = document.createElement('script'); tag.textContent = \"document.title = 'ran'\"; document.body.append(tag);"
        "fetch('http://127.0.0.1:1/').catch(error => { document.body.dataset.fetched = 'no'; });"
    )
    until(lambda: page.browser.execute_script("return document.body.dataset.fetched") == "no")
    assert page.browser.title != "ran"
    assert sum("Content Security Policy" in line for line in page.errors()) >= 2
    text = chat_page().body.decode()
    assert not [word for word in ("http://", "https://", "//cdn", "innerHTML", "document.write") if word in text]


def test_a_trained_prompt_becomes_the_system_prompt_of_a_new_chat(page: Page, engine: Engine):
    page.browser.find_element("css selector", "#right-about button").click()
    page.ask("Hi")
    until(lambda: len(page.thread("left")) == 3 and not page.at("stop").is_enabled())
    assert page.thread("left")[0] == ("system", PROMPT)
    for request in engine.asked:
        assert request["messages"] == [{"role": "system", "content": PROMPT}, {"role": "user", "content": "Hi"}]
    page.at("clear").click()
    assert page.thread("left") == page.thread("right") == []


def test_another_model_begins_a_new_chat_on_its_side_alone(page: Page, engine: Engine):
    page.ask("Hi")
    until(lambda: len(page.thread("right")) == 2 and not page.at("stop").is_enabled())
    page.choose("left", "demo/base")
    assert page.at("left-about").text == "Before fine-tuning\ntiny"
    assert page.thread("left") == []
    assert len(page.thread("right")) == 2


@pytest.mark.parametrize("how", ["new chat", "other models"])
def test_an_answer_that_is_left_is_no_part_of_the_next_chat(page: Page, engine: Engine, how: str):
    engine.hold = threading.Event()
    page.ask("Tell me more")
    until(lambda: page.thread("left")[1:] == page.thread("right")[1:] == [("assistant", "one")])
    if how == "new chat":
        page.at("clear").click()
    else:
        page.choose("left", "demo/base")
        page.choose("right", "demo/base")
    engine.hold.set()
    until(lambda: page.at("ask").is_enabled())
    assert page.thread("left") == page.thread("right") == []
    page.ask("Hi")
    until(lambda: len(page.thread("right")) == 2 and page.at("ask").is_enabled())
    for request in engine.asked[-2:]:
        assert request["messages"] == [{"role": "user", "content": "Hi"}]


def test_an_error_is_shown_and_the_chat_goes_on(page: Page):
    page.ask("please refuse")
    until(lambda: page.at("ask").is_enabled())
    assert page.thread("left") == [("user", "please refuse"), ("error", "too <b>long</b>")]
    page.ask("Hi")
    until(lambda: page.at("ask").is_enabled() and len(page.thread("left")) == 4)
    assert page.thread("left")[2:] == [("user", "Hi"), ("assistant", "one two")]


def test_a_key_is_asked_for_where_there_is_one(browser: Any, address: str, engine: Engine):
    engine.key = "secret"
    page = Page(browser, address)
    until(lambda: page.at("key").is_displayed())
    page.at("key").send_keys("wrong\n")
    until(lambda: "missing or wrong" in page.at("message").text)
    page.at("key").clear()
    page.at("key").send_keys("secret\n")
    until(lambda: page.models("left"))
    assert not page.at("key").is_displayed()
    page.ask("Hi")
    until(lambda: page.thread("right")[1:] == [("assistant", "one two")])
    assert "secret" not in page.browser.current_url


@pytest.mark.parametrize("width", [390, 1200])
def test_no_screen_scrolls_sideways_and_axe_finds_nothing_in_light_or_dark(
    browser: Any, address: str, width: int, tmp_path: Path
):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        page = Page(browser, address)
        until(lambda: page.models("right"))
        page.ask("a" * 300)
        until(lambda: len(page.thread("right")) == 2)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
            browser.save_screenshot(str(pictures(tmp_path) / f"chat-page-{width}-{scheme}.png"))
            assert axe.violations(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
