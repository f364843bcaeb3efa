"""Run a chat template that someone else wrote: sandboxed, with a time limit and a memory limit.

A model's template is a program. `render` runs it in a process of its own, so that neither an endless loop nor a text
that doubles itself can hurt the caller; `Program` runs it in this process, in the immutable sandbox with a limit on
steps, for children that are disposable themselves and render many rows. Light: Jinja and the standard library.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import InvalidRequest

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 4 * 1024 * 1024
#: Address space of the rendering process, bytes.
MAX_MEMORY_BYTES = 512 * 1024**2


class BadTemplate(InvalidRequest):
    """The chat template cannot be rendered."""

    code = "bad_template"


class Program:
    """A chat template, compiled once. Raises BadTemplate when it is wrong, refuses a row, or takes too long."""

    def __init__(self, jinja: str, *, seconds: float = 2.0):
        if len(jinja) > MAX_TEMPLATE_CHARS:
            raise BadTemplate(f"the chat template has {len(jinja)} characters: at most {MAX_TEMPLATE_CHARS}")
        self.environment = _Environment(seconds)
        try:
            self.template = self.environment.from_string(jinja)
        except (TemplateError, RecursionError) as error:
            raise BadTemplate(f"the chat template is not valid Jinja: {error}") from error

    def marked(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where each of the template's generation blocks begins and ends in it, characters."""
        text = self.render(messages, **values)
        return text, list(zip(self.environment.begins, self.environment.ends, strict=True))

    def render(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
        """The text of a conversation; `values` are bos_token, eos_token, add_generation_prompt, tools, ..."""
        defaults = {"bos_token": "", "eos_token": "", "add_generation_prompt": False}
        self.environment.start()
        parts, size = [], 0
        try:
            for part in self.template.generate(messages=messages, **{**defaults, **values}):
                parts.append(part)
                size = self.environment.size = size + len(part)
                if size > MAX_OUTPUT_CHARS:
                    raise BadTemplate(f"the chat template writes more than {MAX_OUTPUT_CHARS} characters")
        except BadTemplate:
            raise
        except Exception as error:
            # A template can fail in as many ways as Python: every one is the template's fault.
            raise BadTemplate(f"the chat template fails: {type(error).__name__}: {error}") from error
        return "".join(parts)


def render(
    jinja: str, conversations: Sequence[Sequence[Mapping[str, Any]]], *, seconds: float = 5.0, **values: Any
) -> list[str]:
    """The text of each conversation, rendered in a process of its own. Raises BadTemplate."""
    order = json.dumps({"jinja": jinja, "conversations": conversations, "values": values, "seconds": seconds})
    command = [sys.executable, "-P", "-m", "shared.templates.render"]
    try:
        done = subprocess.run(command, input=order.encode(), capture_output=True, timeout=seconds + 2, check=False)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise BadTemplate(f"the chat template takes longer than {seconds} seconds") from error
    except ValueError as error:
        raise BadTemplate("the chat template needs too much memory or time") from error
    if "error" in answer:
        raise BadTemplate(answer["error"])
    texts: list[str] = answer["texts"]
    return texts


class _Environment(ImmutableSandboxedEnvironment):
    """Transformers' environment for chat templates, with a deadline that every loop looks at."""

    intercepted_binops = frozenset({"**", "*", "+", "%"})

    def __init__(self, seconds: float):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.filters["tojson"] = _to_json
        self.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        self.seconds = seconds
        self.deadline = 0.0
        #: Characters written so far, and how many were written where each generation block began and ended.
        self.size = 0
        self.begins: list[int] = []
        self.ends: list[int] = []

    def start(self) -> None:
        self.deadline = time.monotonic() + self.seconds
        self.size, self.begins, self.ends = 0, [], []

    def begin(self) -> str:
        self.begins.append(self.size)
        return ""

    def end(self) -> str:
        self.ends.append(self.size)
        return ""

    def tick(self) -> str:
        if time.monotonic() > self.deadline:
            raise BadTemplate(f"the chat template takes longer than {self.seconds} seconds")
        return ""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "*" and _size(left) * _size(right) > MAX_OUTPUT_CHARS):
            raise BadTemplate(f"the chat template uses {operator} on what may grow without limit")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list | tuple) and len(result) > MAX_OUTPUT_CHARS:
            raise BadTemplate(f"the chat template makes a text of more than {MAX_OUTPUT_CHARS} characters")
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            loop.body.insert(0, _call("tick"))  # type: ignore[attr-defined]
        return tree.set_environment(self)  # type: ignore[return-value]


class _Generation(Extension):
    """Transformers' `{% generation %}` block, which marks the assistant's words: its body, and where it stands.

    The place is right where text is written as it comes; inside a macro or a captured block it is that of the start.
    """

    tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [_call("begin"), nodes.Scope(body, lineno=line), _call("end")]


def _call(name: str) -> nodes.Output:
    """What writes nothing and tells the environment. An attribute of it, not a name: a template cannot shadow it."""
    return nodes.Output([nodes.Call(nodes.EnvironmentAttribute(name), [], [], None, None)])


def _size(value: Any) -> float:
    """What a factor contributes to the size of a product."""
    return abs(value) if isinstance(value, int | float) else len(value)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """Transformers' own filter: Jinja's would escape `<` and `>` for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def main() -> None:
    """One order on standard input, one answer on standard output."""
    order = json.loads(sys.stdin.buffer.read())
    _limit(order["seconds"])
    try:
        program = Program(order["jinja"], seconds=order["seconds"])
        texts = [program.render(messages, **order["values"]) for messages in order["conversations"]]
        answer: dict[str, Any] = {"texts": texts}
    except BadTemplate as error:
        answer = {"error": error.message}
    sys.stdout.write(json.dumps(answer))


def _limit(seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    main()
