"""Chat templates built from parts, as published ones differ: roles, system messages, end of turn, think blocks."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from inoc_ray.miniature import weights_path

SYSTEM = ("shown", "dropped", "refused", "in the first user turn")
ENDS = ("<|im_end|>\n", "<|im_end|>", "</s>\n", "</s> ", "\n### End\n", "")
"""The miniature's own token, with and without a line break, and plain text."""
THINK = ("none", "last turn", "open prompt", "hybrid")


@dataclass(frozen=True)
class Parts:
    """How a template is built."""

    system: str = "shown"
    end: str = "<|im_end|>\n"
    think: str = "none"
    assistant: str = "assistant"
    trims: bool = False
    opening: str = "\n"
    alternates: bool = False
    dated: bool = False

    @property
    def source(self) -> str:
        """The template in Jinja."""
        content = "m.content | trim" if self.trims else "m.content"

        def head(role: str) -> str:
            return f"'<|im_start|>' + {role} + {self.opening!r}"

        lines = ["{%- set ns = namespace(last=-1, first='') -%}"]
        lines.append("{%- for m in messages if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endfor -%}")
        if self.dated:
            lines.append("{{- strftime_now('%d %b %Y') + '\\n' -}}")
        if self.alternates:
            lines.append(
                "{%- if messages[0].role == 'assistant' -%}{{- raise_exception('roles must alternate') -}}{%- endif -%}"
            )
        lines.append("{%- set seen = namespace(users=0) -%}{%- for m in messages -%}")
        lines.append("{%- if m.role == 'system' -%}")
        lines.append(
            {
                "shown": "{{- " + head("'system'") + f" + {content} + {self.end!r} -}}}}",
                "dropped": "",
                "refused": "{{- raise_exception('System role not supported') -}}",
                "in the first user turn": f"{{%- set ns.first = {content} + '\\n\\n' -%}}",
            }[self.system]
        )
        lines.append("{%- elif m.role == 'user' -%}")
        lines.append(
            "{{- " + head("'user'") + f" + (ns.first if seen.users == 0 else '') + {content} + {self.end!r} -}}}}"
            "{%- set seen.users = seen.users + 1 -%}"
        )
        lines.append("{%- else -%}")
        lines.append("{{- " + head(f"'{self.assistant}'") + " -}}")
        if self.think == "none":
            lines.append(f"{{{{- {content} + {self.end!r} -}}}}")
        else:
            lines.append(f"{{%- set body = {content} -%}}{{%- set why = '' -%}}")
            lines.append(
                "{%- if '</think>' in body -%}"
                "{%- set why = body.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}"
                "{%- set body = body.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
            )
            # Qwen3 writes a block into the last answer alone, others only where there is reasoning, R1 never.
            block = "{{- '<think>\\n' + why + '\\n</think>\\n\\n' -}}"
            lines.append(
                {
                    "last turn": "{%- if loop.index0 > seen.users and loop.last -%}" + block + "{%- endif -%}",
                    "hybrid": "{%- if why and loop.last -%}" + block + "{%- endif -%}",
                    "open prompt": "",
                }[self.think].replace("loop.index0 > seen.users and ", "")
            )
            lines.append(f"{{{{- body + {self.end!r} -}}}}")
        lines.append("{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}")
        lines.append("{{- " + head(f"'{self.assistant}'") + " -}}")
        if self.think in ("last turn", "hybrid"):
            lines.append(
                "{%- if enable_thinking is defined and enable_thinking is false -%}"
                "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
            )
        elif self.think == "open prompt":
            lines.append("{{- '<think>\\n' -}}")
        lines.append("{%- endif -%}")
        return "".join(lines)


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """The miniature's tokenizer with another template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(weights_path()))
    tokenizer.chat_template = template
    return tokenizer
