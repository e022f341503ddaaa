"""Failures of a study as they are kept and shown."""

from inoc_ray.store.failures import failure_of


def test_an_error_is_one_line_that_a_terminal_may_show():
    """Words of an API or of a model's file may hold anything, such as the codes that move a terminal's cursor."""
    found = failure_of({"label": "judge gpt", "error": "no\n \x1b[2Jroom\r\x07 left\u202e", "log": "", "of": []})
    assert found.in_words() == "judge gpt: no [2Jroom left"
    assert failure_of({"label": "x", "error": " \n", "log": "", "of": []}).error == "no message"
