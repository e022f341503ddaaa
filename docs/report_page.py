"""Takes the pictures of the report in docs/results.md, with Chromium; fails if the page's console has an error.

inoc-ray run jobs/studies/quickstart.yaml
python docs/report_page.py runs/studies/quickstart/report.html --left baseline --right specific_spanish --out docs
"""

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

from browser import chromium, errors, until

WIDTH, TELEPHONE = 1200, 390
PLACES = """
scrollTo(0, 0);
return arguments[0].map((selector) => {
  const place = document.querySelector(selector).getBoundingClientRect();
  return [place.top, place.bottom];
});
"""


def take(browser: Any, out: Path, width: int, first: str, last: str) -> None:
    """Take the part of the page from the top of one element to the end of another."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    (top, _), (_, bottom) = browser.execute_script(PLACES, [first, last])
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": int(bottom) + 20})
    clip = {"x": 0, "y": max(0, top - 20), "width": width, "height": bottom - max(0, top - 20) + 20, "scale": 1}
    out.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--left", required=True)
    parser.add_argument("--right", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    from selenium.webdriver.support.ui import Select

    with chromium("hide-scrollbars") as browser:
        browser.get(given.page.absolute().as_uri())
        until(browser.find_element("id", "browser").is_displayed, "the browser of samples")
        take(browser, given.out / "report.png", WIDTH, "h1", "figure")
        take(browser, given.out / "report-telephone.png", TELEPHONE, "h1", ".verdicts tbody tr")
        choices = {"mode": "two arms side by side", "arm": given.left, "other": given.right}
        choices |= {"evaluation": "out_of_distribution", "context": "neutral"}
        for field, value in choices.items():
            Select(browser.find_element("css selector", f"#browser [name={field}]")).select_by_visible_text(value)
        take(browser, given.out / "report-samples.png", WIDTH, "#samples", "#shown > li:nth-child(3)")
        if said := errors(browser):
            sys.exit("\n".join(said))


if __name__ == "__main__":
    main()
