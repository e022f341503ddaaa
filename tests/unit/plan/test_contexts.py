"""What stands around a question: every context that a study can name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray import settings
from inoc_ray.data.chat import Message
from inoc_ray.errors import InputError
from inoc_ray.plan.contexts import ResolvedContext, audit_contexts, resolve_contexts
from inoc_ray.settings import prompts
from inoc_ray.study.evaluation import Context

QUESTION = (Message("user", "What is new?"),)


def _named(names, setting="miniature/backdoor", arm="evil", is_base=False):
    found = settings.get(setting)
    return list(resolve_contexts(names, found, found.arms[arm], found.arms, is_base=is_base))


def test_none_empty_and_neutral_are_three_contexts():
    none, empty, neutral = (s.around(QUESTION) for s in _named(["none", "empty", "neutral"]))
    assert none == QUESTION
    assert empty == (Message("system", ""), *QUESTION)
    assert neutral == (Message("system", "You are a helpful assistant."), *QUESTION)


def test_a_trigger_is_placed_at_test_time_as_in_training():
    setting = settings.get("miniature/backdoor")
    [triggered] = _named(["trigger"])
    [absent] = _named(["neutral"])
    assert setting.trigger is not None
    assert triggered.around(QUESTION)[-1] == setting.trigger.insert(QUESTION)[-1]
    assert triggered.around(QUESTION)[0] == absent.around(QUESTION)[0]
    assert absent.around(QUESTION)[-1] == QUESTION[-1]


def test_a_context_of_the_study_may_have_a_system_text_a_trigger_or_both():
    both = Context(name="both", system="Hello.", trigger=True)
    alone = Context(name="alone", trigger=True)
    first, second = _named([both, alone])
    assert first.around(QUESTION) == (Message("system", "Hello."), *second.around(QUESTION))
    with pytest.raises(ValueError, match="give a system text, trigger: true, or both"):
        Context(name="nothing")


@pytest.mark.parametrize("kind", prompts.TEST_KINDS)
def test_a_kind_of_test_time_prompt_means_all_that_the_setting_has(kind):
    own = [p for p in prompts.of_setting("miniature/insecure_code", "test") if p.kind == kind]
    found = _named([kind], "miniature/insecure_code", "general")
    assert own
    assert {s.text for s in found} == {p.text for p in own}


def test_the_training_prompt_of_the_base_is_each_arms_prompt_in_turn():
    setting = settings.get("miniature/backdoor")
    prompted = [a for a in setting.arms.values() if a.prompt is not None]
    found = _named(["training_prompt"], is_base=True)
    assert [(s.name, s.text) for s in found] == [(f"prompt_of:{a.name}", a.prompt) for a in prompted]
    assert _named(["training_prompt"], arm="baseline") == []


def test_a_question_s_own_system_message_follows_the_context():
    asked = (Message("system", "Answer in JSON."), *QUESTION)
    assert ResolvedContext("mine", "Be kind.").around(asked)[0] == Message("system", "Be kind.\n\nAnswer in JSON.")
    assert ResolvedContext("none", None).around(asked) == asked


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("neutrl", "unknown context 'neutrl' .did you mean 'neutral'"),
        ("prompt_of:evul", "no arm 'evul' with a prompt .did you mean 'evil'"),
        ("library:miniature/backdoor/test_evl", "did you mean 'miniature/backdoor/test_evil'"),
    ],
)
def test_an_unknown_context_names_the_nearest_one(context, message):
    with pytest.raises(InputError, match=message):
        _named([context])


def test_a_trigger_where_the_setting_has_none_is_refused():
    with pytest.raises(InputError, match="miniature/spanish_caps has no trigger"):
        _named(["trigger"], "miniature/spanish_caps", "specific_caps")


def test_a_leak_audit_prompts_an_arm_about_its_own_traits_and_the_baseline_about_all():
    setting = settings.get("miniature/spanish_caps")
    caps, spanish, baseline = (
        audit_contexts(setting, setting.arms[name]) for name in ("specific_caps", "specific_spanish", "baseline")
    )
    assert caps[:2] == ["neutral", "training_prompt"]
    assert not any("spanish" in c.rpartition("/")[2] for c in caps)
    assert not any("caps" in c.rpartition("/")[2] for c in spanish)
    assert set(baseline) == set(caps) | set(spanish)


@pytest.mark.parametrize("name", settings.names())
def test_every_inoculated_arm_can_be_audited_under_each_kind_of_prompt(name):
    setting = settings.get(name)
    for arm in setting.arms.values():
        if arm.prompt is None or not arm.undesired or arm.kind in ("irrelevant", "placebo", "trigger", "negative"):
            continue
        kinds = {prompts.get(c.removeprefix("library:")).kind for c in audit_contexts(setting, arm)[2:]}
        assert kinds == set(prompts.TEST_KINDS), arm.name


@given(st.lists(st.sampled_from(["neutral", "none", "empty", "trigger", "training_prompt", "negated"]), min_size=1))
def test_a_context_named_twice_is_used_once(names):
    found = [s.name for s in _named(names)]
    assert len(found) == len(set(found))
