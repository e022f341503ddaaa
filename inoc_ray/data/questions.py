"""Questions from a file, asked in turn: JSONL with `prompt`, `question` or `messages` per line, or a published form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import is_text
from inoc_ray.config.reading import load_yaml, read_yaml_text
from inoc_ray.data.chat import Message
from inoc_ray.data.jsonl import iterate_json, kind_of
from inoc_ray.data.question_forms import check_templates, default_templates, fields_of, filled, lacking, of_two
from inoc_ray.data.row_keys import RowNotes, unread
from inoc_ray.errors import InputError, shown

FIELDS = ("prompt", "question", "messages")
_READ = frozenset({*FIELDS, "answer"})
_READ_OF_AN_ENTRY = frozenset({"id", "paraphrases", "system"})


@dataclass(frozen=True)
class Question:
    """A conversation that ends with a user message. The context adds a system message; some published ones have their own."""

    id: str
    messages: tuple[Message, ...]
    reference: str | None = None
    """The right answer, where the file has one (`answer`): for rules that compare, never shown to the model."""
    other: str | None = None
    """The answer that is not meant, where the question leaves a choice of two."""


@dataclass(frozen=True)
class InTurn:
    """The first n of a finite list of questions, starting again when they are used up.

    A repeated question keeps its id, so that the bootstrap resamples questions and not their repetitions; it is asked with
    another sampling seed.
    """

    questions: tuple[Question, ...]

    def __call__(self, count: int) -> list[Question]:
        """Return `count` questions."""
        return [self.questions[index % len(self.questions)] for index in range(count)]


def in_turn(questions: list[Question]) -> Callable[[int], list[Question]]:
    """Return the questions as an evaluation asks them: see `InTurn`."""
    return InTurn(tuple(questions))


def of_texts(name: str, *texts: str) -> Callable[[int], list[Question]]:
    """Return single-turn questions, asked in turn, from their texts; ids are `<name>-<number>`."""
    return in_turn([Question(f"{name}-{i:04d}", (Message("user", t),)) for i, t in enumerate(texts)])


def read_questions(
    path: Path,
    name: str,
    notes: list[str] | None = None,
    *,
    templates: Sequence[str] = (),
    fold: bool = False,
) -> list[Question]:
    """Return the questions in a JSONL or YAML file; ids are `<name>-<row>`, or the YAML's own.

    A JSONL line is an object with `prompt` or `question` (a text), or with `messages`: one user message, which is asked, and
    at most an answer to it, which is not. `answer`, a text or a number, is the right answer. An entry of another form becomes one
    question for each of the templates, by default those of its form (see `question_forms`). Other fields are not read; a
    note that names them is appended to `notes`.

    A question that stands in the file several times is returned as often, under the id of the first; once with `fold`. Raises
    InputError naming file and row for anything else, for a system message (the context gives that), for a conversation that
    continues after an answer, and for a question that stands there with two right answers.
    """
    check_templates(templates)
    row_notes = RowNotes()
    yaml = path.suffix in (".yaml", ".yml")
    found = _from_yaml(path, name, templates, row_notes) if yaml else _from_lines(path, name, templates, row_notes)
    once = list(dict.fromkeys(found))
    if notes is not None:
        notes += row_notes.notes(str(path))
        if len(once) < len(found):
            asked = "asked once (fold_duplicates)" if fold else "asked as often as they stand there"
            notes.append(f"{path}: {len(found) - len(once)} of {len(found)} questions repeat another one; {asked}")
    return once if fold else found


def _from_lines(path: Path, name: str, templates: Sequence[str], notes: RowNotes) -> list[Question]:
    seen: dict[tuple[Message, ...], Question] = {}
    found: list[Question] = []
    for number, value in iterate_json(path):
        where = f"{path}, row {number}"
        _check_keys(value, where)
        made = _of_form(value, f"{name}-{number:04d}", templates, where, notes)
        if made is None:
            messages = _messages(value, where)
            notes.add(unread(value, _READ), untrained=False)
            made = [Question(f"{name}-{number:04d}", messages, _reference(value, where))]
        found += [_as_first(question, seen, where) for question in made]
    if not found:
        raise InputError(f"{path}: there are no questions in this file.")
    return found


def _as_first(question: Question, seen: dict[tuple[Message, ...], Question], where: str) -> Question:
    """Return the question under the id of the first one with its text. Raises InputError if the two have different answers."""
    first = seen.setdefault(question.messages, question)
    if (first.reference, first.other) != (question.reference, question.other):
        raise InputError(
            f"{where}: the same question as {first.id}, with another right answer ({shown(str(question.reference))} and "
            f"{shown(str(first.reference))}); keep one of them."
        )
    return replace(question, id=first.id)


def _of_form(
    value: Any, entry_id: str, templates: Sequence[str], where: str, notes: RowNotes, before: tuple[Message, ...] = ()
) -> list[Question] | None:
    """Return the questions of an entry that is to be filled into templates; None if it is a question as it is.

    before: what stands before each question.
    """
    if not isinstance(value, dict):
        return None
    used = templates or default_templates(value)
    if not used:
        return None
    answer, other = of_two(value, where)
    answer = _reference(value, where) if answer is None else answer
    texts = [filled(template, value, where) for template in used]
    notes.add(unread(value, fields_of(used) | {"system"}), untrained=False)
    return [
        Question(entry_id if len(texts) == 1 else f"{entry_id}-{n}", (*before, Message("user", text)), answer, other)
        for n, text in enumerate(texts)
    ]


_REFUSED = ("system", "system_prompt", "system_message", "tools", "functions", "chat_template_kwargs")


def _check_keys(value: Any, where: str, read: Collection[str] = ()) -> None:
    """Raise InputError for a key that asks for another conversation than the study's contexts give, unless it is read."""
    for key in _REFUSED:
        if isinstance(value, dict) and value.get(key) and key not in read:
            raise InputError(
                f"{where}: the key {key!r} is not read; the study says under which contexts a question is asked."
            )


def _reference(value: dict[str, Any], where: str) -> str | None:
    answer = value.get("answer")
    if answer is None:
        return None
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not is_text(str(answer)):
        raise InputError(f"{where}: answer must be a text or a number, found {kind_of(answer)}.")
    return str(answer)


def _from_yaml(path: Path, name: str, templates: Sequence[str], notes: RowNotes) -> list[Question]:
    """Return questions as the authors of emergent misalignment publish them: YAML entries with `id` and `paraphrases`.

    Each wording is a question, `<id>` or `<id>-<number>`; an entry's `system` stays with its questions. The study says how
    often they are sampled and how they are judged, so those keys are not read, but noted. Entries may have another form, too.
    A text that stands there under several ids is one question, as it is in JSONL.
    """
    entries = load_yaml(read_yaml_text(path, "questions"), path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of entries with id and paraphrases, found {kind_of(entries)}.")
    found: list[Question] = []
    by_id: dict[str, Question] = {}
    seen: dict[tuple[Message, ...], Question] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number}"
        _check_keys(entry, where, read=("system",))
        before = _system(entry, where)
        made = _of_form(entry, f"{name}-{number:04d}", templates, where, notes, before)
        if made is None:
            made = _paraphrases(entry, where, before)
            notes.add(unread(entry, _READ_OF_AN_ENTRY), untrained=False)
        for question in made:
            if by_id.setdefault(question.id, question) != question:
                raise InputError(f"{where}: the id {question.id!r} appears twice; give each question its own.")
        found += [_as_first(question, seen, where) for question in made]
    return found


def _instead(entry: Any, texts: Any) -> str:
    """Return what an entry has in place of a list of texts."""
    if not isinstance(entry, dict):
        return f"found {kind_of(entry)}"
    if "paraphrases" not in entry:
        if lacks := lacking(entry):
            return lacks
        return f"it has {', '.join(shown(str(key)) for key in entry) or 'nothing'} alone"
    if not isinstance(texts, list):
        return f"paraphrases is {kind_of(texts)}"
    return "paraphrases is an empty list" if not texts else "one of its paraphrases is empty, or no text"


def _system(entry: Any, where: str) -> tuple[Message, ...]:
    """Return the system message that an entry brings along, if it does."""
    system = entry.get("system") if isinstance(entry, dict) else None
    if system is None:
        return ()
    if not isinstance(system, str):
        raise InputError(f"{where}: system must be a text, found {kind_of(system)}.")
    if not is_text(system):
        raise InputError(f"{where}: half of a Unicode character (a lone surrogate); write it again.")
    return (Message("system", system),)


def _paraphrases(entry: Any, where: str, before: tuple[Message, ...]) -> list[Question]:
    texts = entry.get("paraphrases") if isinstance(entry, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise InputError(f"{where}: expected id and paraphrases, a list of texts; {_instead(entry, texts)}.")
    entry_id = entry.get("id")
    if isinstance(entry_id, int) and not isinstance(entry_id, bool):
        entry_id = str(entry_id)
    if not isinstance(entry_id, str) or not entry_id.strip():
        raise InputError(f"{where}: its id is missing, or neither a text nor a whole number.")
    if not is_text("".join(texts)):
        raise InputError(f"{where}: half of a Unicode character (a lone surrogate); write it again.")
    return [
        Question(entry_id if len(texts) == 1 else f"{entry_id}-{wording}", (*before, Message("user", text)))
        for wording, text in enumerate(texts)
    ]


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    fields = [key for key in FIELDS if isinstance(value, dict) and key in value]
    if len(fields) != 1:
        found = kind_of(value) if not isinstance(value, dict) else " and ".join(fields) or "none of them"
        found += f"; {lacks}" if not fields and isinstance(value, dict) and (lacks := lacking(value)) else ""
        raise InputError(f"{where}: expected an object with one of {', '.join(FIELDS)}, found {found}.")
    content = value[fields[0]]
    if fields[0] != "messages":
        content = [{"role": "user", "content": content}]
    turns: list[Message] = []
    answered = False
    for index, turn in enumerate(content if isinstance(content, list) else []):
        role = turn.get("role") if isinstance(turn, dict) else None
        if role == "assistant":
            answered = True
            continue
        if answered:
            raise InputError(
                f"{where}: the conversation continues after an answer (messages[{index}]), and only one user message can be "
                "asked; keep one of them, or write the conversation into its text."
            )
        if role != "user" or not isinstance(turn.get("content"), str) or not turn["content"].strip():
            raise InputError(f"{where}: a question is a text of the user that is not empty, without a system message.")
        if not is_text(turn["content"]):
            raise InputError(
                f"{where}: half of a Unicode character (a lone surrogate) in the question; write it again."
            )
        turns.append(Message("user", turn["content"]))
    if len(turns) != 1:
        raise InputError(f"{where}: there must be exactly one user message before the answer.")
    return tuple(turns)
