"""From a conversation to ids and marks: what the model reads, and which tokens it learns.

Where an answer begins and ends is found by rendering the conversation turn by turn with the chat template: the text up
to a turn with its generation prompt is exactly what the model is given when it is asked, and what the next rendering
adds is the answer. So every template works, marked or not. The answer is learned with the token that ends the turn,
and without what the template writes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import TunesmithError
from shared.rows import Row
from shared.templates.render import Program

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
    default_system: str | None = None
    train_on_prompt: bool = False
    #: Learn the last answer only.
    mask_history: bool = False
    #: Tokens.
    cutoff_len: int = 2048

    def sample(self, row: Row) -> Sample:
        """Raises Unlearnable, BadTemplate."""
        turns = self.turns(row)
        fitted = fit(turns, self.cutoff_len, from_end=self.mask_history)
        ids: list[int] = []
        marks: list[bool] = []
        for turn in fitted:
            ids += turn.prompt + turn.answer
            marks += [self.train_on_prompt] * len(turn.prompt)
            marks += [turn.learned or self.train_on_prompt] * len(turn.answer)
        # The first token of a sample is predicted from nothing.
        if not any(marks[1:]):
            raise Unlearnable("no token of an answer is left to learn")
        return Sample(
            input_ids=ids,
            supervised=marks,
            was_cut=sum(map(size, turns)) > len(ids),
            num_rewritten=sum(message["role"] == "assistant" for message in row.messages) - len(turns),
        )

    def turns(self, row: Row) -> list[Turn]:
        messages = self._with_system(row.messages)
        text = self._render(messages, row.tools)
        turns, position = [], 0
        for answer in self._answers(messages, row.tools, text):
            end = [self.end_id] if answer.needs_end else []
            turns.append(
                Turn(
                    prompt=self.encode(text[position : answer.start]),
                    answer=self.encode(text[answer.start : answer.end]) + end,
                    learned=answer.learned,
                )
            )
            position = answer.end
        if self.mask_history:
            turns = [replace(turn, learned=False) for turn in turns[:-1]] + turns[-1:]
        return turns

    def _answers(self, messages: Messages, tools: list[Any] | None, text: str) -> list[Answer]:
        found: list[Answer] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            upto = self._render(messages[: index + 1], tools)
            if not text.startswith(upto):
                continue  # a template that rewrites history (drops old thoughts): then only later answers stand as said
            prompt = self._render(messages[:index], tools, add_generation_prompt=True)
            # Usually all of the prompt; less where it opens a thought that the answer does not have.
            start = num_common(upto, prompt)
            if found and start < found[-1].end:
                raise Unlearnable("the chat template writes an answer before the end of the last one")
            found.append(self._answer(upto, start, message))
        return found

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

    def _with_system(self, messages: Messages) -> Messages:
        if self.default_system and messages[0]["role"] != "system":
            return [{"role": "system", "content": self.default_system}, *messages]
        return messages

    def _render(self, messages: Messages, tools: list[Any] | None, add_generation_prompt: bool = False) -> str:
        values = {**self.values, "add_generation_prompt": add_generation_prompt}
        return self.program.render(messages, **(values | ({"tools": tools} if tools else {})))


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
