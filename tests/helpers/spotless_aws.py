"""A stand-in for AWS on a port of this machine: moto's, but it has no spot machines of the kinds that are named.

python spotless_aws.py PORT KIND…
"""

import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

REFUSAL = (
    "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>There is no Spot capacity available that matches "
    "your request.</Message></Error></Errors><RequestID>0</RequestID></Response>"
)
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def without_spot(app: App, kinds: set[str]) -> App:
    """The application with a refusal, in AWS's words, of each spot machine of these kinds."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        asked = {key: values[0] for key, values in parse_qs(body.decode(errors="replace")).items()}
        spot = asked.get("InstanceMarketOptions.MarketType") == "spot"
        if asked.get("Action") == "RunInstances" and spot and asked.get("InstanceType") in kinds:
            start("500 Internal Server Error", [("Content-Type", "text/xml")])
            return [REFUSAL.encode()]
        return app(environ, start)

    return answer


if __name__ == "__main__":
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto: Any = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", int(sys.argv[1]), without_spot(moto, set(sys.argv[2:])), threaded=True)
