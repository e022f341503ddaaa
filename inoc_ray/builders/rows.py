"""A build from its options to its file: what is asked, what the journal has already, what is kept, and the summary."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray import stopping
from inoc_ray.builders.ask import Own, Remote, converse
from inoc_ray.builders.journal import REFUSED, Answer, Journal, journal_path, opened
from inoc_ray.builders.registry import builder_names, get_builder
from inoc_ray.builders.source import read_source
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.config.identity import canonical_json, content_hash, content_id, is_text
from inoc_ray.console import Progress, duration
from inoc_ray.data.chat import ChatRow
from inoc_ray.endpoint.connection import EndpointAddress
from inoc_ray.endpoint.refusals import REFUSALS_IN_A_ROW
from inoc_ray.endpoint.retry import PATIENT, Retry
from inoc_ray.errors import InputError, TrialError
from inoc_ray.store.filesystem import write_atomically
from inoc_ray.study.registered import MODELS


@dataclass(frozen=True)
class Built:
    """What a build wrote."""

    setting: str
    control: bool
    out: Path
    rows: int
    wanted: int
    answers: int
    """Answers that were looked at for the rows, the dropped ones among them."""
    resumed: int
    """Answers that were in the journal of an interrupted build."""
    dropped: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "setting": self.setting,
            "control": self.control,
            "out": str(self.out),
            "rows": self.rows,
            "wanted": self.wanted,
            "answers": self.answers,
            "resumed": self.resumed,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 2),
        }

    def to_text(self) -> str:
        """Return the file, and why rows were dropped."""
        what = f"{self.setting}, control rows" if self.control else self.setting
        lines = [f"{what}: {self.rows} of {self.wanted} rows in {duration(self.seconds)}, from {self.answers} answers"]
        if self.resumed:
            lines[0] += f" ({self.resumed} of an interrupted build)"
        lines += [f"  dropped {count}: {reason}" for reason, count in self.dropped.items()]
        return "\n".join([*lines, f"Rows: {self.out}"])


class Sieve:
    """Takes answers in any order and judges them in the order of the requests, until enough rows are there.

    So the rows, and what is counted as dropped, are the same whoever answered first.
    """

    def __init__(self, builder: Builder, requests: Sequence[Request], wanted: int) -> None:
        self.rows: list[ChatRow] = []
        self.dropped: Counter[str] = Counter()
        self.judged = 0
        self._builder, self._requests, self._wanted = builder, requests, wanted
        self._waiting: dict[int, Answer] = {}
        self._advance()

    @property
    def complete(self) -> bool:
        """Enough rows, or nothing left to judge."""
        return len(self.rows) == self._wanted or self.judged == len(self._requests)

    def take(self, number: int, answer: Answer) -> None:
        """Take the answer to the request of that number."""
        self._waiting[number] = answer
        self._advance()

    def _advance(self) -> None:
        while not self.complete:
            request = self._requests[self.judged]
            if request.messages and self.judged not in self._waiting:
                return
            answer = self._waiting.pop(self.judged, None)
            kept = self._builder.accept(request, "") if answer is None else judge(self._builder, request, answer)
            if isinstance(kept, ChatRow):
                self.rows.append(kept)
            else:
                self.dropped[kept] += 1
            self.judged += 1


def judge(builder: Builder, request: Request, answer: Answer) -> ChatRow | str:
    """Return the row, or why there is none: what is wrong for every builder first, then what is for this one."""
    if answer.finish == REFUSED:
        return "refused by the endpoint"
    if answer.finish == "content_filter":
        return "withheld by the endpoint"
    if answer.finish == "length":
        return f"cut at {request.max_tokens} tokens"
    if not answer.text.strip():
        return "empty"
    if not is_text(answer.text):
        return "half of a Unicode character"
    return builder.accept(request, answer.text)


def seed_of(configuration: dict[str, Any], number: int) -> int:
    """Return the sampling seed of a request: its own, and the same at every try."""
    drawn_by = [configuration["setting"], configuration["control"], configuration["seed"], number]
    return int(content_id(drawn_by), 16) >> 33


def build_rows(
    setting: str,
    out: Path,
    *,
    teacher: Own | Remote | None,
    source: str | None = None,
    count: int | None = None,
    seed: int = 0,
    control: bool = False,
    retry: Retry = PATIENT,
) -> Built:
    """Make the rows and write them to `out`; resume where an interrupted build of the same configuration ended.

    Raises InputError, before anybody is asked, for what cannot be right, and TrialError when the endpoint fails for good or
    no answer is fit; what was answered until then is kept in the journal. An endpoint that refuses request after request
    fails for good; if it never answered any, it is the call that is wrong.
    """
    began = time.monotonic()
    builder = get_builder(setting, control)
    path = journal_path(out)
    if out.suffix != ".jsonl":
        raise InputError(f"--out {out}: give the name of a .jsonl file.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}.")
    # With a journal beside it the file was written by a build that was killed before it could tidy up.
    if out.exists() and not path.exists():
        raise InputError(f"--out {out}: is there already; remove it, or give another name.")
    requests, wanted = _requests(setting=setting, builder=builder, source=source, count=count, seed=seed)
    asks = any(request.messages for request in requests)
    if asks and teacher is None:
        raise InputError(
            f"data build {setting}: a model has to be asked; give --model FOLDER (or {' or '.join(MODELS)}), or --endpoint URL "
            "with --served-model NAME."
        )
    configuration: dict[str, Any] = {
        "setting": setting,
        "control": control,
        "count": wanted,
        "seed": seed,
        "requests": content_hash([_plain(request) for request in requests])[:16],
        **(teacher.identity if asks and teacher is not None else {}),
    }
    if asks and isinstance(teacher, Remote) and not path.exists():
        # Before there is a journal, which a build that was refused would leave behind.
        teacher.check()
    with opened(path, configuration) as journal:
        sieve = Sieve(builder, requests, wanted)
        for number, answer in journal.answers.items():
            sieve.take(number, answer)
        resumed = len(journal.answers)
        if not sieve.complete:
            assert teacher is not None
            with _says_what_is_kept(journal), teacher.answering(content_id(configuration)) as (where, model):
                asyncio.run(
                    _ask(
                        where=where,
                        model=model,
                        configuration=configuration,
                        requests=requests,
                        wanted=wanted,
                        sieve=sieve,
                        journal=journal,
                        retry=retry,
                    )
                )
        if not sieve.rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sieve.dropped.items())
            raise TrialError(
                f"data build {setting}: of {sieve.judged} answers none is fit ({reasons}); {path} keeps them."
            )
        write_atomically(out, "".join(canonical_json(row.to_dict()) + "\n" for row in sieve.rows).encode())
        journal.remove()
    return Built(
        setting=setting,
        control=control,
        out=out,
        rows=len(sieve.rows),
        wanted=wanted,
        answers=sieve.judged if asks else 0,
        resumed=resumed,
        dropped=dict(sorted(sieve.dropped.items())),
        seconds=time.monotonic() - began,
    )


@contextlib.contextmanager
def _says_what_is_kept(journal: Journal) -> Iterator[None]:
    """When the block is stopped, have the command say how many answers there are."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"{len(journal.answers)} answers are kept in {journal.path}" if journal.answers else "no answer had come"
        stopping.keep_in_words(f"{kept}. Run the same command again to resume")
        raise


def _requests(
    setting: str, builder: Builder, source: str | None, count: int | None, seed: int
) -> tuple[list[Request], int]:
    """Everything that may be asked, and how many rows are wanted of it."""
    if builder.parse is None:
        if source is not None:
            raise InputError(f"data build {setting}: takes no --source; leave it out.")
        wanted = count or builder.count or 1
        return builder.requests((), wanted, seed), wanted
    if source is None:
        raise InputError(f"data build {setting}: needs --source FILE with its source rows ({builder.source}).")
    rows = read_source(builder, source)
    wanted = count or builder.count or len(rows)
    if wanted > len(rows):
        raise InputError(f"--count {wanted}: {source} has {len(rows)} rows; ask for at most that many.")
    return builder.requests(rows, wanted, seed), wanted


def _plain(request: Request) -> list[Any]:
    return [
        [[m.role, m.content] for m in request.messages],
        request.temperature,
        request.max_tokens,
        request.row.to_dict() if request.row is not None else None,
    ]


async def _ask(
    where: EndpointAddress,
    model: str,
    configuration: dict[str, Any],
    requests: Sequence[Request],
    wanted: int,
    sieve: Sieve,
    journal: Journal,
    retry: Retry,
) -> None:
    """Asks what the journal has no answer to, until the sieve has enough, and keeps each answer as it comes."""
    missing = [n for n, request in enumerate(requests) if request.messages and n not in journal.answers]
    asked = ((n, requests[n], seed_of(configuration, n)) for n in missing)
    # Where there are spare requests, rows tell how far it is; without spares, every request will be made.
    spares = len(requests) > wanted
    before = len(sieve.rows)
    refused: list[tuple[int, Answer]] = []
    progress = Progress("building", wanted - before if spares else len(missing), "rows" if spares else "answers")
    with progress:
        async with aclosing(converse(where, model, asked, retry)) as answers:
            received = 0
            async for number, answer in answers:
                received += 1
                if answer.finish == REFUSED:
                    # Not kept before another request is answered: an endpoint that refuses everything, as one does whose
                    # credit is used up, says nothing about the requests, and the next call must ask them again.
                    refused.append((number, answer))
                    if len(refused) == REFUSALS_IN_A_ROW and journal.answers:
                        raise TrialError(
                            f"data build: the endpoint refuses everything now, {REFUSALS_IN_A_ROW} requests after each other, "
                            f"the last one with: {answer.text}; {journal.path} keeps the answers until then, and the same "
                            "command goes on from there."
                        )
                    if len(refused) == REFUSALS_IN_A_ROW:
                        break
                    continue
                for kept_number, kept in (*refused, (number, answer)):
                    journal.add(kept_number, kept)
                    sieve.take(kept_number, kept)
                refused.clear()
                progress.update(len(sieve.rows) - before if spares else received, f"{sieve.dropped.total()} dropped")
                if sieve.complete:
                    return
    if refused and not journal.answers:
        raise InputError(refused[0][1].text)
    for number, answer in refused:
        journal.add(number, answer)
        sieve.take(number, answer)


def builders_json() -> list[dict[str, Any]]:
    """Return the list of builders, for `--json`."""
    return [
        {
            "setting": name,
            "rows": (builder := get_builder(name)).description,
            "control_rows": builder.control.description if builder.control else None,
            "source": builder.source or None,
            "count": builder.count,
        }
        for name in builder_names()
    ]


def builders_text() -> str:
    """Return the list of builders, in words."""
    lines = []
    for value in builders_json():
        lines.append(value["setting"])
        lines.append(f"  rows     {value['rows']}")
        lines.append(f"  control  {value['control_rows'] or 'published, not made'}")
        lines.append(f"  source   {value['source'] or 'none'}")
        lines.append(f"  count    {value['count'] or 'one for each row of the source'}")
    return "\n".join(lines)
