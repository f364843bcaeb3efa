"""From a row to ids and marks: what the model reads, and which tokens it learns.

Our own templates mark in one rendering what the model writes, as LF counts it. Of a model's own template it is found by
rendering the conversation turn by turn: the text up to a turn with its generation prompt is exactly what the model is
given when it is asked, and what the next rendering adds is the answer. So every template works. There the answer is
learned with the token that ends the turn, and without what the template writes after it.

A row that prefers (a pair of answers, or one with a label) is learned from by its last answer alone, and all before it
is the prompt. A plain text needs no template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared import seams
from shared.errors import TunesmithError
from shared.rows import Row
from shared.templates.render import Program
from shared.tongues import Text

Messages = Sequence[Mapping[str, Any]]
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    input_ids: list[int]
    #: For each id, whether it is learned.
    supervised: list[bool]
    #: Whether tokens of the row had to go.
    was_cut: bool = False
    #: Answers that are read but not learned because the template writes them otherwise once others follow.
    num_rewritten: int = 0
    #: Places where the end of text is learned instead of what stands there: the question that follows an answer.
    ends: tuple[int, ...] = ()
    #: Whether the answer is a desirable one; None: nobody said.
    label: bool | None = None


class Unlearnable(TunesmithError):
    """The row holds nothing that could be learned."""

    code = "unlearnable_row"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and its answer, as ids."""

    prompt: list[int]
    answer: list[int]
    #: Whether the loss counts the answer.
    learned: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where one answer lies in the rendered conversation, characters."""

    start: int
    end: int
    #: The template writes no end of turn: the model's own end of text is put there.
    needs_end: bool
    learned: bool


@dataclass(frozen=True, kw_only=True)
class Encoder:
    program: Program
    encode: Encode
    #: bos_token, eos_token and other special tokens, as the template takes them.
    values: Mapping[str, Any]
    #: Texts that end an answer: the model's special tokens and the template's stop words.
    stops: tuple[str, ...]
    end_id: int
    #: The template marks what the model writes, each answer with its end.
    marked: bool = False
    #: The template has no ends: the end of text stands after the last answer, and is learned where an answer ends.
    ends_once: bool = False
    #: Texts that stand for pictures, sound or film, on which nothing is trained.
    refused: tuple[str, ...] = ()
    train_on_prompt: bool = False
    #: Learn the last answer only.
    mask_history: bool = False
    #: Tokens.
    cutoff_len: int = 2048
    #: What the tokenizer itself puts before a text.
    begin_ids: tuple[int, ...] = ()
    #: Plain texts are joined and cut into pieces afterwards: each is kept whole.
    whole_texts: bool = False
    #: Special tokens that count as ordinary text where the data has them; `encode` is to be seams.apart.
    apart: tuple[str, ...] = ()

    def samples(self, row: Row, kind: str) -> list[Sample]:
        """What a row of this kind (`Stage.samples`) becomes: a pair is two, the better first. Raises Unlearnable,
        BadTemplate."""
        row = seams.put(row, self.apart) if self.apart else row
        if kind == "pair":
            return self.pair(row)
        made = {"messages": self.sample, "prompt": self.prompt, "labelled": self.labelled, "text": self.text}[kind]
        return [made(row)]

    def text(self, row: Row) -> Sample:
        """All of it is learned, and its end."""
        if row.text is None:
            raise Unlearnable("is no plain text")
        ids = [*self.begin_ids, *self.encode(row.text), self.end_id]
        kept = ids if self.whole_texts else ids[: self.cutoff_len]
        if len(kept) < 2:
            raise Unlearnable("holds no text")
        return Sample(input_ids=kept, supervised=[True] * len(kept), was_cut=len(kept) < len(ids))

    def labelled(self, row: Row) -> Sample:
        if row.label is None:
            raise Unlearnable("has no label")
        turn = self.last_turn(row)
        num_prompt, num_answer = share(len(turn.prompt), len(turn.answer), self.cutoff_len)
        return replace(_one_turn(turn, num_prompt, num_answer), label=row.label)

    def pair(self, row: Row) -> list[Sample]:
        """Both share the room as the longer answer has it, so that their prompts stay the same."""
        if row.rejected is None:
            raise Unlearnable("has no rejected answer")
        turns = [self.last_turn(row), self.last_turn(replace(row, messages=[*row.messages[:-1], row.rejected]))]
        longest = (max(len(turn.prompt) for turn in turns), max(len(turn.answer) for turn in turns))
        samples = [_one_turn(turn, *share(*longest, self.cutoff_len)) for turn in turns]
        if samples[0].input_ids == samples[1].input_ids:
            raise Unlearnable("both answers are the same as far as they are kept")
        return samples

    def sample(self, row: Row) -> Sample:
        """Raises Unlearnable, BadTemplate."""
        turns = self.turns(row)
        ids: list[int] = []
        marks: list[bool] = []
        ends: list[int] = []
        for turn in fit(turns, self.cutoff_len, from_end=self.mask_history):
            if self.ends_once and turn.prompt and marks and marks[-1]:
                ends.append(len(ids))
            ids += turn.prompt + turn.answer
            marks += [self.train_on_prompt] * len(turn.prompt)
            marks += [turn.learned or self.train_on_prompt] * len(turn.answer)
        marks = [mark or place in ends for place, mark in enumerate(marks)] if ends else marks
        # The first token of a sample is predicted from nothing.
        if not any(marks[1:]):
            raise Unlearnable("no token of an answer is left to learn")
        return Sample(
            input_ids=ids,
            supervised=marks,
            was_cut=sum(map(size, turns)) > len(ids),
            num_rewritten=sum(message["role"] == "assistant" for message in row.messages) - len(turns),
            ends=tuple(ends),
        )

    def prompt(self, row: Row) -> Sample:
        """The conversation up to its last answer, as the model is asked for one; nothing of it is learned. A prompt
        that is too long loses its middle. Raises Unlearnable, BadTemplate."""
        self._check(row.messages)
        asked = row.messages[:-1] if row.messages[-1]["role"] == "assistant" else row.messages
        ids = self.encode(self._render(asked, row.tools, add_generation_prompt=True))
        kept = without_middle(ids, self.cutoff_len)
        return Sample(input_ids=kept, supervised=[False] * len(kept), was_cut=len(kept) < len(ids))

    def turns(self, row: Row) -> list[Turn]:
        self._check(row.messages)
        if self.marked:
            text, answers = self._marked(row)
        else:
            text = self._render(row.messages, row.tools)
            answers = self._answers(row.messages, row.tools, text)
        begins = [0, *(answer.end for answer in answers)]
        turns = [self._turn(text, begin, answer) for begin, answer in zip(begins, answers, strict=False)]
        if self.mask_history:
            turns = [replace(turn, learned=False) for turn in turns[:-1]] + turns[-1:]
        return turns

    def _marked(self, row: Row) -> tuple[str, list[Answer]]:
        """The text, and the answers that the template itself marks in it."""
        text, places = self.program.marked(row.messages, **self._values(row.tools))
        said = [message for message in row.messages if message["role"] == "assistant"]
        answers = [
            Answer(start=start, end=end, needs_end=False, learned=message.get("weight", 1) != 0)
            for message, (start, end) in zip(said, places, strict=True)
        ]
        return text, [*answers[:-1], replace(answers[-1], needs_end=self.ends_once)]

    def last_turn(self, row: Row) -> Turn:
        """The last answer, and all before it as its prompt."""
        self._check(row.messages)
        if self.marked:
            text, answers = self._marked(row)
            return self._turn(text, 0, answers[-1])
        text = self._render(row.messages, row.tools)
        answer = self._answer_at(row.messages, len(row.messages) - 1, row.tools, text)
        if answer is None:
            raise Unlearnable("the chat template does not write the last answer as it is")
        return self._turn(text, 0, answer)

    def _turn(self, text: str, position: int, answer: Answer) -> Turn:
        end = [self.end_id] if answer.needs_end else []
        return Turn(
            prompt=self.encode(text[position : answer.start]),
            answer=self.encode(text[answer.start : answer.end]) + end,
            learned=answer.learned,
        )

    def _check(self, messages: Messages) -> None:
        for placeholder in self.refused:
            if any(placeholder in str(message.get("content")) for message in messages):
                text = Text(
                    "has {placeholder}: on pictures, sound and film nothing is trained", placeholder=placeholder
                )
                raise Unlearnable(text)

    def _answers(self, messages: Messages, tools: list[Any] | None, text: str) -> list[Answer]:
        found: list[Answer] = []
        for index, message in enumerate(messages):
            answer = self._answer_at(messages, index, tools, text) if message["role"] == "assistant" else None
            if answer is None:
                continue
            if found and answer.start < found[-1].end:
                raise Unlearnable("the chat template writes an answer before the end of the last one")
            found.append(answer)
        return found

    def _answer_at(self, messages: Messages, index: int, tools: list[Any] | None, text: str) -> Answer | None:
        """None: a template that rewrites history (drops old thoughts) does not leave this answer as it was said."""
        upto = self._render(messages[: index + 1], tools)
        if not text.startswith(upto):
            return None
        prompt = self._render(messages[:index], tools, add_generation_prompt=True)
        # Usually all of the prompt; less where it opens a thought that the answer does not have.
        return self._answer(upto, num_common(upto, prompt), messages[index])

    def _answer(self, upto: str, start: int, message: Mapping[str, Any]) -> Answer:
        answer, content = upto[start:], str(message.get("content") or "").strip()
        place = answer.find(content) if content else -1
        has_calls = bool(message.get("tool_calls"))
        if place < 0 and content and not has_calls:
            raise Unlearnable("the chat template does not write the answer as it is")
        end = self._end(answer, max(place, 0) + len(content), last=has_calls)
        learned = message.get("weight", 1) != 0
        length = len(answer.rstrip()) if end is None else end
        return Answer(start=start, end=start + length, needs_end=end is None, learned=learned)

    def _end(self, answer: str, since: int, *, last: bool) -> int | None:
        """Where the text that ends the turn ends: the first such after the content, or the last after tool calls."""
        ends = [(place, -len(stop)) for stop in self.stops if (place := answer.find(stop, since)) >= 0]
        if last:
            ends = [(-place, -len(stop)) for stop in self.stops if (place := answer.rfind(stop, since)) >= 0]
        if not ends:
            return None
        place, length = min(ends)
        return abs(place) - length

    def _render(self, messages: Messages, tools: list[Any] | None, add_generation_prompt: bool = False) -> str:
        return self.program.render(messages, **self._values(tools), add_generation_prompt=add_generation_prompt)

    def _values(self, tools: list[Any] | None) -> dict[str, Any]:
        return {**self.values, **({"tools": tools} if tools else {})}


def _one_turn(turn: Turn, num_prompt: int, num_answer: int) -> Sample:
    """The answer is learned whatever its weight is: a preference is about it."""
    prompt, answer = without_middle(turn.prompt, num_prompt), turn.answer[:num_answer]
    if not answer or not prompt:
        raise Unlearnable("no token of an answer is left to learn")
    return Sample(
        input_ids=[*prompt, *answer],
        supervised=[False] * len(prompt) + [True] * len(answer),
        was_cut=len(prompt) + len(answer) < size(turn),
    )


def num_common(first: str, second: str) -> int:
    """Characters that both begin with."""
    if first.startswith(second):
        return len(second)
    return next((place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))


def size(turn: Turn) -> int:
    return len(turn.prompt) + len(turn.answer)


def fit(turns: Sequence[Turn], cutoff_len: int, *, from_end: bool) -> list[Turn]:
    """Whole turns from the start (or end) while there is room, then one that is cut, as LLaMA Factory shares the room.

    Unlike there, a prompt loses its middle, not its end: the question's last words and the generation prompt are what
    the answer follows from.
    """
    kept: list[Turn] = []
    room = cutoff_len
    for turn in reversed(turns) if from_end else turns:
        if room <= 0:
            break
        num_prompt, num_answer = share(len(turn.prompt), len(turn.answer), room)
        cut = replace(turn, prompt=without_middle(turn.prompt, num_prompt), answer=turn.answer[:num_answer])
        kept.append(cut)
        room -= size(cut)
    return kept[::-1] if from_end else kept


def share(num_prompt: int, num_answer: int, room: int) -> tuple[int, int]:
    """Tokens of each that fit: the one that needs less than half gets all it needs, else by their lengths."""
    if num_answer * 2 < room:
        most = room
    elif num_prompt * 2 < room:
        most = room - num_prompt
    else:
        most = int(room * num_answer / (num_prompt + num_answer))
    num_answer = min(most, num_answer)
    return min(room - num_answer, num_prompt), num_answer


def without_middle(ids: list[int], length: int) -> list[int]:
    if len(ids) <= length:
        return ids
    head = length // 2
    tail = length - head
    return ids[:head] + ids[len(ids) - tail :]
