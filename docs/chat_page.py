"""Takes the picture of the chat page in docs/serving.md, from a running `inoc-ray serve`, with Chromium.

inoc-ray serve jobs/studies/quickstart.yaml
python docs/chat_page.py http://127.0.0.1:8000/ --left NAME --right NAME --question TEXT --out docs/chat.png
"""

import argparse

from browser import chromium, until


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--left")
    parser.add_argument("--right")
    parser.add_argument("--question", action="append", required=True)
    parser.add_argument("--tokens", default="64")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    from selenium.webdriver.support.ui import Select

    with chromium("window-size=1200,900") as browser:
        browser.get(given.address)
        until(lambda: browser.find_elements("css selector", "#right-model option"), "the list of models")
        for side in ("left", "right"):
            if name := getattr(given, side):
                Select(browser.find_element("id", f"{side}-model")).select_by_visible_text(name)
        for field in ("tokens", "seed"):
            browser.find_element("id", field).clear()
            browser.find_element("id", field).send_keys(getattr(given, field))
        for number, question in enumerate(given.question, start=1):
            browser.find_element("id", "question").send_keys(question + "\n")
            until(lambda n=number: len(browser.find_elements("css selector", ".thread .user")) == 2 * n, question)
            until(browser.find_element("id", "ask").is_enabled, question)
        size = browser.execute_script("return document.documentElement.scrollHeight")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1200, "height": size, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.save_screenshot(given.out)


if __name__ == "__main__":
    main()
