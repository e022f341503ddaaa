"""A byte-level tokenizer made on the spot, and chat templates with the habits of published ones."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

DEFAULT_SYSTEM = """{%- if messages[0].role != 'system' %}<|im_start|>system
You were made by us.<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Like Qwen: a system message is put in when there is none, and a line break follows the end of a turn."""

DATED_AND_TRIMMED = """{%- if not date_string is defined %}{{ raise_exception('no date') }}{% endif -%}
<s>Today: {{ date_string }}
{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<e>
{%- for m in messages %}{% if m.role != 'system' %}<h>{{ m.role }}<h>

{{ m.content | trim }}<e>{% endif %}{% endfor %}{% if add_generation_prompt %}<h>assistant<h>

{% endif %}"""
"""Like Llama: a date, contents trimmed, no line break after the end of a turn."""

SYSTEM_IN_USER = """<s>{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' -%}
{% for m in messages if m.role != 'system' %}{% if m.role == 'user' -%}
[INST] {{ first if loop.first else '' }}{{ m.content }} [/INST]{% else %} {{ m.content }}<e>{% endif %}{% endfor %}"""
"""Like Mistral: the system message stands in the first user turn, and there is no generation prompt."""

FORGETFUL = """{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<h>…<e>{% else -%}
<h>{{ m.role }}: {{ m.content }}<e>{% endif %}{% endfor %}{% if add_generation_prompt %}<h>assistant: {% endif %}"""
"""Rewrites earlier assistant turns, as templates that drop old reasoning do."""

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<s>", "<h>", "<e>"]


def make_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Bytes with a few merges over letters and blanks, as byte-level BPE has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("e", "s"), ("Ċ", "Ċ"), ("h", "e"), ("Ġa", "n")]
    tokens = [*SPECIAL, *alphabet, *(left + right for left, right in merges)]
    core = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<e>", additional_special_tokens=SPECIAL[1:5]
    )
    tokenizer.chat_template = template
    return tokenizer
