"""Takes the pictures of mlflow/README.md from a running MLflow server, with Chromium.

mlflow server --port 5000 --backend-store-uri sqlite:///runs/mlflow/mlflow.db
python docs/mlflow_pages.py http://127.0.0.1:5000 quickstart --out docs
"""

import argparse
import time
from pathlib import Path

from browser import chromium, errors, until

WAIT = 240.0
_CLOSE = "//*[text()='MLflow Assistant']/following::button[3]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("study")
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(given.address)
    experiment = client.get_experiment_by_name(given.study).experiment_id
    runs = client.search_runs([experiment])
    arms = [run for run in runs if "arm" in run.data.tags]
    base = [run for run in runs if run.data.params.get("kind") == "base"]
    metrics = sorted({name for run in arms for name in run.data.metrics})
    shown = [run.info.run_id for run in (*base, *arms)]
    pages = {
        "runs": (f"/experiments/{experiment}/runs?viewStateShareKey=arms", [run.info.run_name for run in arms]),
        "charts": (f"/experiments/{experiment}/runs?viewStateShareKey=arms&compareRunsMode=CHART", metrics[:2]),
        "answers": (
            f"/experiments/{experiment}/runs?compareRunsMode=ARTIFACT",
            ["samples.json"],
        ),
    }
    with chromium("window-size=1900,900") as browser:
        for name, (page, words) in pages.items():
            browser.get("about:blank")
            browser.get(f"{given.address}/#{page}")

            def text() -> str:
                return str(browser.find_element("tag name", "body").text)

            until(lambda words=words: all(word in text() for word in words), f"{words} on {page}", WAIT)
            for close in browser.find_elements("xpath", _CLOSE):
                close.click()
            time.sleep(5)
            browser.save_screenshot(str(given.out / f"mlflow-{name}.png"))
        print(len(shown), "runs compared;", "\n".join(errors(browser)) or "no errors in the browser's console")


if __name__ == "__main__":
    main()
