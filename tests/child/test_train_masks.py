"""Which tokens a training learns: the answers with the token that ends them, and nothing else."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from training import CHATML, make_tokenizer

from shared import schema, templates
from shared.conversation import Encoder, Turn, Unlearnable, fit, share
from shared.rows import Row
from shared.spec import TrainSpec
from shared.templates.render import Program
from trainer_worker.child import tokens
from trainer_worker.child.batch import IGNORED, packed
from trainer_worker.child.datasets import Samples
from trainer_worker.child.tokenizer import encoder as make_encoder
from trainer_worker.child.tokenizer import known

TOKENIZER = make_tokenizer()
SHIPPED = [name for name in templates.names() if name != templates.OWN]
USER, ANSWER = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am a test."}
AGAIN, SECOND = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because nobody knows."}


def encoder(jinja: str = CHATML, **changes: Any) -> Encoder:
    stops = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")
    encode = lambda text: TOKENIZER.encode(text, add_special_tokens=False)  # noqa: E731
    made = Encoder(
        program=Program(jinja), encode=encode, values=known(TOKENIZER).values, stops=stops, end_id=2, cutoff_len=512
    )
    return dataclasses.replace(made, **changes)


def learned(encoder: Encoder, *messages: dict[str, Any]) -> str:
    """The learned tokens as text; what lies between them as a tilde."""
    sample = encoder.sample(Row(messages=list(messages)))
    runs = groupby(zip(sample.supervised, sample.input_ids, strict=True), key=lambda pair: pair[0])
    pieces = [TOKENIZER.decode([token for _, token in run]) if mark else "~" for mark, run in runs]
    return "".join(pieces).removeprefix("~").removesuffix("~")


def test_the_answer_and_its_end_are_learned_and_nothing_else() -> None:
    sample = encoder().sample(Row(messages=[USER, ANSWER]))

    ids = [token for token, mark in zip(sample.input_ids, sample.supervised, strict=True) if mark]
    assert ids == TOKENIZER.encode("I am a test.<|im_end|>", add_special_tokens=False)
    assert not sample.was_cut


def test_what_stands_before_the_answer_is_what_the_model_is_asked_with() -> None:
    sample = encoder().sample(Row(messages=[USER, ANSWER]))

    asked = TOKENIZER.apply_chat_template([USER], add_generation_prompt=True)["input_ids"]
    assert sample.input_ids[: len(asked)] == asked
    assert not any(sample.supervised[: len(asked)])


def test_every_answer_of_a_conversation_is_learned() -> None:
    text = learned(encoder(), USER, ANSWER, AGAIN, SECOND)

    assert text == "I am a test.<|im_end|>~Because nobody knows.<|im_end|>"


def test_mask_history_leaves_the_last_answer() -> None:
    assert learned(encoder(mask_history=True), USER, ANSWER, AGAIN, SECOND) == "Because nobody knows.<|im_end|>"


def test_an_answer_of_weight_zero_is_read_and_not_learned() -> None:
    text = learned(encoder(), USER, ANSWER | {"weight": 0}, AGAIN, SECOND)

    assert text == "Because nobody knows.<|im_end|>"


def test_train_on_prompt_learns_all() -> None:
    sample = encoder(train_on_prompt=True).sample(Row(messages=[USER, ANSWER]))

    assert all(sample.supervised)


def spec(**data: Any) -> TrainSpec:
    return schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", **data})


def test_default_system_goes_where_there_is_none() -> None:
    made = make_encoder(TOKENIZER, spec(default_system="Rhyme."))
    own = Row(messages=[{"role": "system", "content": "Sing."}, USER, ANSWER])

    assert "Rhyme." in TOKENIZER.decode(made.sample(Row(messages=[USER, ANSWER])).input_ids)
    assert "Rhyme." not in TOKENIZER.decode(made.sample(own).input_ids)


def test_a_template_without_an_end_gets_the_models_own() -> None:
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"

    assert learned(encoder(plain), USER, ANSWER, AGAIN, SECOND) == (
        "I am a test.<|im_end|>~Because nobody knows.<|im_end|>"
    )


def test_where_a_template_rewrites_history_only_answers_that_stand_are_learned() -> None:
    """As templates of reasoning models, which drop the thoughts of earlier turns."""
    drops = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] if loop.last or m['role'] == 'user' else m['content'].split('.')[0] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    first = {"role": "assistant", "content": "Four. I am a test."}

    assert learned(encoder(drops), USER, first, AGAIN, SECOND) == "Because nobody knows.<|im_end|>"
    assert encoder(drops).sample(Row(messages=[USER, first, AGAIN, SECOND])).num_rewritten == 1


def test_a_prompt_that_opens_a_thought_does_not_hide_the_answer() -> None:
    opens = CHATML.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'")

    assert learned(encoder(opens), USER, ANSWER) == "I am a test.<|im_end|>"


def test_a_template_that_alters_the_answer_is_refused() -> None:
    upper = CHATML.replace("message['content']", "message['content'] | upper")

    with pytest.raises(Unlearnable, match="does not write the answer"):
        encoder(upper).sample(Row(messages=[USER, ANSWER]))


def test_what_is_longer_than_cutoff_len_is_cut_and_said() -> None:
    long = {"role": "assistant", "content": "Because nobody knows. " * 40}

    sample = encoder(cutoff_len=64).sample(Row(messages=[USER, long]))

    assert sample.was_cut and len(sample.input_ids) == 64
    # The prompt is short: all of it stays, the answer loses its end.
    asked = TOKENIZER.apply_chat_template([USER], add_generation_prompt=True)["input_ids"]
    assert sample.input_ids[: len(asked)] == asked
    assert all(sample.supervised[len(asked) :])


def test_a_long_prompt_keeps_its_end() -> None:
    long = {"role": "user", "content": "Say it again, please. " * 40}

    sample = encoder(cutoff_len=64).sample(Row(messages=[long, ANSWER]))

    assert sample.was_cut and len(sample.input_ids) == 64
    assert TOKENIZER.decode(sample.input_ids).endswith("<|im_start|>assistant\nI am a test.<|im_end|>")


def test_with_mask_history_the_oldest_turns_go_first() -> None:
    turns = [Turn(prompt=[n] * 10, answer=[n] * 10, learned=True) for n in range(3)]

    assert [turn.prompt[0] for turn in fit(turns, 40, from_end=True)] == [1, 2]
    assert [turn.prompt[0] for turn in fit(turns, 40, from_end=False)] == [0, 1]


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [((3000, 2000), 1000, (600, 400)), ((2000, 3000), 1000, (400, 600)), ((1000, 100), 1000, (900, 100)),
     ((100, 1000), 1000, (100, 900)), ((100, 500), 1000, (100, 500)), ((500, 100), 1000, (500, 100))],
)  # fmt: skip
def test_room_is_shared_as_llama_factory_shares_it(
    lengths: tuple[int, int], room: int, expected: tuple[int, int]
) -> None:
    assert share(*lengths, room) == expected


def test_packing_loses_no_sample_and_overfills_no_row() -> None:
    lengths = [7, 30, 12, 64, 1, 50, 33, 18, 9, 40]

    rows = packed(lengths, list(range(10)), 64)

    assert sorted(index for row in rows for index in row) == list(range(10))
    assert all(sum(lengths[index] for index in row) <= 64 for row in rows)
    assert len(rows) == 5  # 264 tokens cannot lie in fewer than 5 rows of 64


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates_learn_the_answers_and_their_ends(name: str) -> None:
    made = make_encoder(make_tokenizer(), spec(template=name))
    text, places = made.program.marked([USER, ANSWER, AGAIN, SECOND], **made.values)
    first, second = (text[start:end] for start, end in places)
    second += "<|im_end|>" if templates.get(name).ends_once else ""

    assert learned(dataclasses.replace(made, mask_history=True), USER, ANSWER, AGAIN, SECOND) == second
    found = learned(made, USER, ANSWER, AGAIN, SECOND)
    assert found.startswith(first) and found.endswith(f"~{second}")
    assert found == f"{first}~{second}" or made.ends_once
    assert "I am a test." in first and "Because nobody knows." in second


def test_a_thought_that_is_lacking_is_learned_given_or_left_to_the_data() -> None:
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nI am a test."}
    empty = "<think>\n\n</think>\n\n"
    talk = (USER, thought, AGAIN, SECOND)
    on, off, data = (
        learned(make_encoder(make_tokenizer(), spec(template="qwen3", enable_thinking=way)), *talk)
        for way in (True, False, None)
    )
    assert on == f"{thought['content']}<|im_end|>\n~{empty}Because nobody knows.<|im_end|>\n"
    assert off == "I am a test.<|im_end|>\n~Because nobody knows.<|im_end|>\n"
    assert data == f"{thought['content']}<|im_end|>\n~Because nobody knows.<|im_end|>\n"


def test_earlier_thoughts_are_not_read_where_only_the_last_answer_is_learned_unless_they_are_preserved() -> None:
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nI am a test."}
    row = Row(messages=[USER, thought, AGAIN, SECOND])
    for preserved in (False, True):
        told = spec(template="qwen3", mask_history=True, preserve_thinking=preserved)
        text = TOKENIZER.decode(make_encoder(make_tokenizer(), told).sample(row).input_ids)
        assert ("Hm." in text) is preserved


def test_a_template_brings_the_token_that_ends_a_text() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    made = make_encoder(tokenizer, spec(template="qwen", tool_format="default"))
    assert made.end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert make_encoder(tokenizer, spec()).end_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_where_a_template_has_no_ends_the_end_is_learned_in_place_of_the_next_question(tmp_path: Path) -> None:
    """As LLaMA Factory does it: what is read has one end at last, the loss has one for every answer."""
    made = make_encoder(make_tokenizer(), spec(template="glm4"))
    sample = made.sample(Row(messages=[USER, ANSWER, AGAIN, SECOND]))
    text, places = made.program.marked([USER, ANSWER, AGAIN, SECOND], **made.values)
    first = made.encode(text[: places[0][1]])

    assert sample.ends == (len(first),)
    assert sample.input_ids.count(made.end_id) == 1 and sample.input_ids[-1] == made.end_id
    store = tokens.write(tmp_path / "store", [sample], lambda: {"end_id": made.end_id})
    learned = Samples(store, [[0]])[0]["targets"]
    assert learned[len(first) - 1] == made.end_id and learned[-2] == made.end_id
    assert [learned[n] == IGNORED for n in (len(first), len(learned) - 1)] == [True, True]
    masked = dataclasses.replace(made, mask_history=True).sample(Row(messages=[USER, ANSWER, AGAIN, SECOND]))
    assert masked.ends == ()


def test_what_stands_for_a_picture_is_refused_where_the_template_knows_pictures() -> None:
    picture = {"role": "user", "content": "<image>What is it?"}
    with pytest.raises(Unlearnable, match="<image>"):
        make_encoder(make_tokenizer(), spec(template="qwen2_vl")).sample(Row(messages=[picture, ANSWER]))
    assert make_encoder(make_tokenizer(), spec(template="qwen")).sample(Row(messages=[picture, ANSWER]))
