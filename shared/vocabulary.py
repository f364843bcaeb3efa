"""What a model's tokenizer files say, and the encoder of a training made of it. Light: `tokenizers` and JSON.

`Vocabulary` is what an encoder needs to know, whoever read it: a child has transformers' own tokenizer, the gateway
`read`s the same files itself. A test asserts that both give the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared import seams, stages, templates
from shared.conversation import Encode, Encoder
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from shared.templates.render import Program

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
SPECIAL_MAP = "special_tokens_map.json"
#: Files that `read` looks at, where they are.
FILES = (TOKENIZER, CONFIG, TEMPLATE, SPECIAL_MAP)
#: Any text: shows what a tokenizer puts before one.
WORD = "a"
#: Of these what says how the model talks.
SPOKEN = (CONFIG, TEMPLATE, SPECIAL_MAP)
#: Special tokens that a template may write by name.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    encode: Encode
    #: The text of ids, special tokens included.
    decode: Callable[[Sequence[int]], str]
    #: The model's own chat template; None where it has none.
    chat_template: str | None
    #: Special tokens by name, as transformers hands them to a template.
    values: Mapping[str, Any]
    #: Every special token.
    special: tuple[str, ...]
    eos_token: str
    eos_token_id: int
    #: What the tokenizer itself puts before a text.
    begin_ids: tuple[int, ...] = ()


def encoder(vocabulary: Vocabulary, spec: TrainSpec) -> Encoder:
    """Raises InvalidSpec when neither the model nor the spec has a chat template and the stage needs one."""
    known, data = with_template(vocabulary, spec), spec.data
    named = templates.get(data.template, data.wording) if data.template else None
    return Encoder(
        program=Program(known.chat_template or ""),
        encode=seams.apart(known.encode) if data.split_special_tokens else known.encode,
        apart=tuple(token for token in known.special if len(token) > 1) if data.split_special_tokens else (),
        values={**known.values, "every_thought": _every_thought(spec)},
        stops=tuple(dict.fromkeys([known.eos_token, *(named.stop_words if named else ()), *known.special])),
        end_id=known.eos_token_id,
        marked=named is not None,
        ends_once=named is not None and named.ends_once,
        refused=named.refused if named else (),
        train_on_prompt=data.train_on_prompt,
        mask_history=data.mask_history,
        cutoff_len=data.cutoff_len,
        begin_ids=known.begin_ids,
        whole_texts=bool(data.packing),
    )


def _every_thought(spec: TrainSpec) -> bool:
    """Whether our templates keep, or give, the thought of every answer: where each is learned, as LF has it. Where one
    answer is compared with another, the earlier ones are what the model reads when it is served."""
    masked = spec.data.mask_history and not spec.data.preserve_thinking
    return spec.tuning.stage == "sft" and not masked


def with_template(vocabulary: Vocabulary, spec: TrainSpec) -> Vocabulary:
    """With the template that the spec names, else the model's own, worded as the spec says. Raises InvalidSpec where
    there is none at all, unless the stage learns from plain text."""
    if spec.data.template is not None:
        named = templates.get(spec.data.template, spec.data.wording)
        return replace(vocabulary, chat_template=named.jinja, **_end(vocabulary, named.eos_token))
    if not vocabulary.chat_template and stages.get(spec.tuning.stage).rows != "text":
        shipped = ", ".join(templates.names())
        raise InvalidSpec(f"the model has no chat template of its own: name one of {shipped}", field="template")
    own = vocabulary.chat_template
    return replace(vocabulary, chat_template=templates.own(own, spec.data.wording) if own else None)


def _end(vocabulary: Vocabulary, token: str | None) -> dict[str, Any]:
    """The end of text that a template brings; the model's own stays where the tokenizer does not know it."""
    ids = vocabulary.encode(token) if token else []
    if token is None or len(ids) != 1:
        return {}
    return {"eos_token": token, "eos_token_id": ids[0], "values": {**vocabulary.values, "eos_token": token}}


def begin_ids(whole: Sequence[int], plain: Sequence[int]) -> tuple[int, ...]:
    """What stands before the ids of a text when the tokenizer adds what it always adds."""
    return tuple(whole[:place]) if plain and (place := _find(whole, plain)) else ()


def _find(whole: Sequence[int], part: Sequence[int]) -> int:
    """Where the part begins; 0 also when it is not there."""
    return next((n for n in range(len(whole)) if list(whole[n : n + len(part)]) == list(part)), 0)


def one_template(given: Any) -> str | None:
    """Some models bring several, by name (older ones as a list of pairs): `default` is the one for conversations."""
    if isinstance(given, list):
        given = {entry["name"]: entry["template"] for entry in given}
    if isinstance(given, dict):
        given = given.get("default") or next(iter(given.values()), None)
    return given or None


def of_transformers(tokenizer: Any) -> Vocabulary:
    """Of transformers' own tokenizer, which is not imported here."""
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
        chat_template=one_template(tokenizer.chat_template),
        values=named,
        special=tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special),
        eos_token=str(tokenizer.eos_token),
        eos_token_id=int(tokenizer.eos_token_id),
        begin_ids=begin_ids(tokenizer.encode(WORD), tokenizer.encode(WORD, add_special_tokens=False)),
    )


def read(folder: Path) -> Vocabulary:
    """From a model's folder. Raises InvalidSpec where there is no fast tokenizer or no end of text."""
    from tokenizers import Tokenizer  # only who previews needs it

    if not (folder / TOKENIZER).is_file():
        raise InvalidSpec(
            f"the model has no {TOKENIZER}: its text can be previewed in a training only", field="model_name_or_path"
        )
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    # Whoever saved it may have left padding or truncation on.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    jinja, values = spoken(folder)
    end = tokenizer.token_to_id(values["eos_token"]) if "eos_token" in values else None
    if end is None:
        raise InvalidSpec("the model's tokenizer has no end-of-text token", field="model_name_or_path")
    special = tuple(str(token.content) for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    return Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
        chat_template=jinja,
        values=values,
        special=special,
        eos_token=values["eos_token"],
        eos_token_id=end,
        begin_ids=begin_ids(tokenizer.encode(WORD).ids, tokenizer.encode(WORD, add_special_tokens=False).ids),
    )


def spoken(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The model's own chat template, and its special tokens by name."""
    config = _json(folder / SPECIAL_MAP) | _json(folder / CONFIG)
    path = folder / TEMPLATE
    jinja = path.read_text() if path.is_file() else one_template(config.get("chat_template"))
    return jinja, {name: text for name in NAMED if (text := _text(config.get(name)))}


def _text(given: Any) -> str | None:
    """A token as the files write it: text, or an object with its content."""
    found = given.get("content") if isinstance(given, dict) else given
    return found if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
