"""Modelfile: how Ollama runs the file beside it, with the model's own prompt and its own ends.

Ollama's templates are Go programs. This one is made of the texts that the chat template puts between messages, found
by rendering conversations, and is left out where conversations are more than such texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export_worker.child.llamacpp import vocabulary

#: What stands for the text of each message; no template has a reason to change it.
SYSTEM, ASKED, ANSWERED, AGAIN = "SYSTEM0TEXT", "USER1TEXT", "ANSWER2TEXT", "USER3TEXT"

TEMPLATE = """{{- $before := "" }}
{{- range .Messages }}
{{- if eq .Role "system" }}{{ %(system)s }}{{ .Content }}
{{- else if eq .Role "user" }}
{{- if eq $before "" }}{{ %(begin)s }}{{ else if eq $before "system" }}{{ %(after_system)s }}
{{- else }}{{ %(after_answer)s }}{{ end }}{{ .Content }}
{{- else if eq .Role "assistant" }}{{ %(answer)s }}{{ .Content }}
{{- end }}
{{- $before = .Role }}
{{- end }}
{{- if ne $before "assistant" }}{{ %(answer)s }}{{ end }}"""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a chat template puts between messages."""

    #: Before the first message of a user, where there is no system prompt.
    begin: str
    #: Before a system prompt, and between it and the user's message.
    system: str
    after_system: str
    #: Between the user's message and the answer.
    answer: str
    #: Between the answer and the next message of the user.
    after_answer: str

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """As the Go program does it, up to where the model answers."""
        parts, before = [], ""
        for message in messages:
            at_user = {"": self.begin, "system": self.after_system}.get(before, self.after_answer)
            lead = {"system": self.system, "user": at_user, "assistant": self.answer}[message["role"]]
            parts += [lead, message["content"]]
            before = message["role"]
        return "".join(parts) + self.answer


def write(out: Path, file_name: str, folder: Path, ends: Sequence[int]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (out / "Modelfile").write_text(text(file_name, tokenizer, ends), encoding="utf-8")


def text(file_name: str, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> str:
    lines = ["# ollama create NAME -f Modelfile", f"FROM ./{file_name}"]
    if not tokenizer.chat_template:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    elif found := texts(tokenizer):
        quoted = {name: json.dumps(words, ensure_ascii=False) for name, words in vars(found).items()}
        lines.append(f'TEMPLATE """{TEMPLATE % quoted}"""')
    else:
        lines.append("# No TEMPLATE: the chat template in the file says more than texts between messages.")
    stops = tokenizer.convert_ids_to_tokens(vocabulary.end_tokens(tokenizer, ends))
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def texts(tokenizer: PreTrainedTokenizerBase) -> Texts | None:
    """None where the template's conversations are not these texts with the messages between them."""
    user, answer, again = message("user", ASKED), message("assistant", ANSWERED), message("user", AGAIN)
    begun = parts(tokenizer, [user], [ASKED])
    turns = parts(tokenizer, [user, answer, again], [ASKED, ANSWERED, AGAIN])
    told = parts(tokenizer, [message("system", SYSTEM), user], [SYSTEM, ASKED])
    if begun is None or turns is None:
        return None
    # Without a place for a system prompt it is left to the model to find it in front of the question.
    system, after_system = told[:2] if told else (begun[0], "\n\n")
    found = Texts(begin=begun[0], system=system, after_system=after_system, answer=turns[1], after_answer=turns[2])
    asked = [[user], [user, answer, again], [user, answer, again, answer, user]]
    asked += [[message("system", SYSTEM), *one] for one in asked] if told else []
    return found if all(found.render(one) == rendered(tokenizer, one) for one in asked) else None


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def parts(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], marks: Sequence[str]) -> list[str] | None:
    """The text of a conversation, split at the messages' contents."""
    rest, found = rendered(tokenizer, messages), []
    for mark in marks:
        if rest is None or rest.count(mark) != 1:
            return None
        before, rest = rest.split(mark)
        found.append(before)
    return [*found, rest or ""]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str | None:
    """Without the token that llama.cpp puts before every prompt by itself; None: not a conversation for this model."""
    try:
        told: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return None
    return str(told).removeprefix(tokenizer.bos_token) if vocabulary.adds_bos(tokenizer) else str(told)
