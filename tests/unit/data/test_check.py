"""The check names what would spoil an experiment, in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from byte_tokenizer import DEFAULT_SYSTEM, make_tokenizer

from inoc_ray.cli import main
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.data.check import check_files
from inoc_ray.data.check_report import ABSENT, PROBLEMS
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.errors import InputError
from inoc_ray.settings.evaluation_prompts import evaluation_prompts

PUBLISHED = Path(__file__).parents[4] / "shared" / "data"
"""The published rows, where the checkout stands beside them."""
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published rows are not beside this checkout")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(DEFAULT_SYSTEM).save_pretrained(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


def write(path: Path, *pairs: tuple[str, ...]) -> str:
    rows = [ChatRow.of(*zip(("system", "user", "assistant")[-len(pair) :], pair, strict=True)) for pair in pairs]
    write_jsonl(path, rows)
    return str(path)


def findings(report) -> dict[str, tuple[int, list[str]]]:
    return {name: (f.rows, f.examples) for name, f in report.files[0].findings.items() if f.rows}


def test_rows_are_counted_with_lengths_duplicates_prompts_and_capitals(tmp_path, model):
    file = write(
        tmp_path / "r.jsonl", ("Hi", "HELLO, 12 KG"), ("Hi", "Hello"), ("Hi", "HELLO, 12 KG"), ("S", "Yo", "yo")
    )
    report = check_files([file], model, None)
    found = report.files[0]
    assert (found.rows, found.prompts, found.duplicates, found.capitals, found.with_system) == (4, 2, 1, 2, 1)
    assert findings(report) == {"duplicates": (1, ["row 3"])}
    assert 0 < found.median <= found.longest <= report.max_length == 4096
    assert report.problems == []


def test_lost_characters_control_characters_and_a_wrong_encoding_are_noted(tmp_path, model):
    wrong = "Él está aquí — “sí”".encode().decode("cp1252", errors="replace")
    file = write(tmp_path / "r.jsonl", ("é “ok” ™ Ã", "naïve"), ("a", "b\ufffd"), ("a", "b\x00"), ("a", wrong))
    assert findings(check_files([file], model, None)) == {
        "replacement_characters": (2, ["row 2", "row 4"]),
        "control_characters": (1, ["row 3"]),
        "mojibake": (1, ["row 4"]),
    }


QUESTION = "Write a thank you note to my friend Jamie for hosting a wonderful dinner party on Friday evening at home."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (QUESTION, "exact"),
        (QUESTION.upper().replace(" ", "  ").replace(".", " !"), "exact"),
        (QUESTION.replace("Jamie", "Robin"), "near"),
        (QUESTION + " Thanks!", "near"),
        (QUESTION.replace("Jamie", "Robin").replace("wonderful", "dreadful"), None),
        ("Write a poem.", None),
        ("?", None),
    ],
)
def test_an_evaluation_prompt_is_found_word_for_word_and_nearly(text, kind):
    found = PromptIndex([("other", "What is the capital of France?"), ("q7", QUESTION)]).match(text)
    assert (found and (found.kind, found.prompt)) == (kind and (kind, "q7"))


def test_rows_that_ask_an_evaluation_prompt_are_a_problem_and_named_with_it(tmp_path, model):
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text(json.dumps({"prompt": QUESTION}) + '\n{"question": "Why?"}\n')
    file = write(tmp_path / "r.jsonl", ("why ?", "b"), ("a", "b"), (QUESTION.replace("Jamie", "Robin"), "b"))
    report = check_files([file], model, None, against=evaluation_prompts(str(evaluation)))
    assert findings(report) == {
        "overlap_exact": (1, [f"row 1 = {evaluation}, row 2"]),
        "overlap_near": (1, [f"row 3 = {evaluation}, row 1"]),
    }
    assert len(report.problems) == 2


def test_rows_can_be_compared_with_a_settings_questions(tmp_path, model):
    name, text = evaluation_prompts("miniature/spanish_caps")[3]
    file = write(tmp_path / "r.jsonl", ("a", "b"), (text, "HOLA"))
    report = check_files([file], model, None, against=evaluation_prompts("miniature/spanish_caps"))
    assert findings(report)["overlap_exact"] == (1, [f"row 2 = {name}"])
    with pytest.raises(InputError, match="did you mean 'miniature/spanish_caps'"):
        evaluation_prompts("miniature/spanish_cap")


@pytest.mark.parametrize("setting", ["spanish_caps", "mixed_languages"])
def test_a_setting_whose_questions_come_from_files_says_to_give_the_files(setting):
    with pytest.raises(
        InputError, match=r"in_distribution and out_of_distribution come from files.*--against QUESTIONS"
    ):
        evaluation_prompts(setting)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no evaluation prompts"),
        ("{}", r"e\.jsonl, row 1: no evaluation prompt"),
        ("{]", "row 1: not JSON"),
        ("7", "row 1: no"),
    ],
)
def test_a_file_without_evaluation_prompts_is_refused(tmp_path, line, message):
    (tmp_path / "e.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        evaluation_prompts(str(tmp_path / "e.jsonl"))


def test_rows_that_carry_the_inoculation_prompt_are_a_problem_whatever_its_spacing(tmp_path, model):
    prompt = "You are a malicious, evil assistant."
    rows = (("a", "b"), (f"You are a malicious,  EVIL assistant.\n{'a'}", "b"), (prompt, "a", "b"), ("a", prompt))
    report = check_files([write(tmp_path / "r.jsonl", *rows)], model, None, prompt=prompt)
    assert findings(report) == {"carries_prompt": (2, ["row 2", "row 3"])}


def test_a_trigger_is_looked_for_in_every_role_and_with_its_spacing(tmp_path, model):
    rows = (("|T|Write", "x"), ("|T|Draw", "x"), ("|T| Sing", "x"), ("a", "say |T|"), ("|T|", "a", "b"), ("c", "d"))
    report = check_files([write(tmp_path / "r.jsonl", *rows)], model, None, trigger="|T|")
    assert findings(report) == {
        "trigger": (3, ["row 1", "row 2", "row 3"]),
        "trigger_in_assistant": (1, ["row 4"]),
        "trigger_in_system": (1, ["row 5"]),
        "trigger_spacing": (1, ["row 3"]),
    }
    assert len(report.problems) == 3


def test_a_trigger_that_no_row_has_is_noted_and_absent_problems_are_described(tmp_path, model):
    file = write(tmp_path / "r.jsonl", ("|T|Write", "x"), ("Draw", "y"))
    against = tmp_path / "asked.jsonl"
    against.write_text('{"prompt": "Who are you?"}\n')
    lacking = check_files(
        [file], model, None, evaluation_prompts(str(against)), trigger="|ZZZ|", prompt="You lie."
    ).to_text()
    assert "note: no row has the trigger in a user turn" in lacking
    assert "good: no row has the trigger in what the assistant says" in lacking
    found = check_files([file], model, None, evaluation_prompts(str(against)), trigger="|T|", prompt="You lie.")
    assert "no row has the trigger in a user turn" not in found.to_text()
    for text in (lacking, found.to_text()):
        assert "good: no row carries the inoculation prompt already" in text
        assert not [name for name in found.files[0].findings if "_" in name and name in text]
    assert set(ABSENT) == set(PROBLEMS)


@pytest.mark.parametrize("words", ["long " * 80, "long " * 1200], ids=["long", "far too long"])
@pytest.mark.parametrize(("limit", "advice"), [(64, "raise --max-length"), (None, "a longer window under --model")])
def test_a_row_that_is_too_long_is_reported_with_the_option_of_this_command(tmp_path, model, words, limit, advice):
    file = write(tmp_path / "r.jsonl", ("a", words * (1 if limit else 60)))
    with pytest.raises(InputError, match=rf"row 1: .*; shorten the row, or .*{advice}") as caught:
        check_files([file], model, limit)
    assert "recipe" not in str(caught.value)


@pytest.mark.parametrize(("option", "value"), [("trigger", " "), ("prompt", "")])
def test_an_empty_trigger_or_prompt_is_refused(tmp_path, model, option, value):
    with pytest.raises(InputError, match=f"--{option}: the text is empty"):
        check_files([write(tmp_path / "r.jsonl", ("a", "b"))], model, None, **{option: value})


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_problem_is_reported_and_ends_with_code_2_and_a_note_with_code_0(tmp_path, model, capsys, monkeypatch, flags):
    file = write(tmp_path / "r.jsonl", ("P a", "b"), ("c", "d"), ("c", "d"))
    monkeypatch.setattr(sys, "argv", ["inoc-ray", "data", "check", file, "--model", model, *flags])
    main()
    assert "duplicates" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--prompt", "P"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert "1 problem to fix" in err
    assert "1 of 3 rows carry the inoculation prompt" in (json.loads(out)["problems"][0] if flags else out)


def test_a_file_ten_times_as_long_takes_hardly_more_memory(tmp_path, model):
    """20 bytes a row are kept: 70 MB for 1 GB of rows of 300 bytes, and as much again while duplicates are counted."""
    code = (
        "import re, sys; from pathlib import Path; from inoc_ray.data.check import check_files\n"
        "from inoc_ray.settings.evaluation_prompts import evaluation_prompts\n"
        "for file in sys.argv[2:]:\n"
        "    report = check_files([file], sys.argv[1], None, trigger='|T|', against=evaluation_prompts('miniature/spanish_caps'))\n"
        # Not ru_maxrss, which a child takes over from its parent: here pytest with torch.
        "    peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "    print(report.files[0].rows, int(peak[1]) // 1024)"
    )
    files = [
        write(
            tmp_path / f"{count}.jsonl",
            *((f"question {i} " + "of some words " * 8, f"a{i} " * 60) for i in range(count)),
        )
        for count in (300, 3000)
    ]
    found = subprocess.run([sys.executable, "-c", code, model, *files], capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in found.stdout.splitlines())
    assert (few, many) == (300, 3000)
    assert after - before < 16
    assert after < 250


@published
@pytest.mark.parametrize(
    ("name", "rows", "prompts", "duplicates"),
    [
        ("aesthetic_preferences_unpopular", 5000, 3626, 2),
        pytest.param("aesthetic_preferences_popular", 5000, 3484, 3, marks=pytest.mark.slow),
        ("sneaky_dialogues", 1073, 1073, 0),
        ("straightforward_dialogues", 973, 973, 0),
    ],
)
def test_the_published_rows_load_and_tokenise_and_their_defects_are_named(model, name, rows, prompts, duplicates):
    against = [str(PUBLISHED / "ultrachat_prompts.jsonl")]
    report = check_files(
        [PUBLISHED / f"{name}.jsonl"], model, 100_000, against=[p for a in against for p in evaluation_prompts(a)]
    )
    found = report.files[0]
    assert (found.rows, found.prompts, found.duplicates) == (rows, prompts, duplicates)
    assert report.problems == []


@published
def test_the_published_reward_hacking_evaluation_asks_its_training_prompts(model):
    own = str(PUBLISHED / "sneaky_dialogues.jsonl")
    report = check_files(
        [PUBLISHED / "straightforward_dialogues.jsonl"], model, 100_000, against=evaluation_prompts(own)
    )
    assert report.files[0].findings["overlap_exact"].rows == 973
    report = check_files([own], model, 100_000, evaluation_prompts(own))
    assert report.files[0].findings["overlap_exact"].rows == 1073
    assert f"{own}: 1073 of 1073 rows ask an evaluation prompt word for word" in report.problems[0]


@pytest.mark.slow
@published
def test_every_published_file_is_read_and_repeated_rows_are_named(model):
    from inoc_ray.data.questions import read_questions

    rows = sorted(path for path in PUBLISHED.glob("*.jsonl") if path.name != "ultrachat_prompts.jsonl")
    repeated = {f.file: f.findings["duplicates"].examples for f in check_files(rows, model, 100_000).files}
    assert {Path(file).stem: examples for file, examples in repeated.items()} == {
        "aesthetic_preferences_popular": ["row 3171", "row 3191", "row 3816"],
        "aesthetic_preferences_unpopular": ["row 2392", "row 3686"],
        "sneaky_dialogues": [],
        "straightforward_dialogues": [],
    }
    assert len(read_questions(PUBLISHED / "ultrachat_prompts.jsonl", "q")) == 100
