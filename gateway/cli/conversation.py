"""A conversation at the terminal: its messages, its settings, and the /commands that change them.

Knows the API by the client and the terminal by the console; what is said on a line is decided here, answers are printed
by gateway/cli/speaking.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import flags, show, speaking
from gateway.cli.client import ApiError, Client
from shared.errors import TunesmithError


@dataclass(kw_only=True)
class Conversation:
    client: Client
    console: Console
    model: str
    system: str = ""
    #: Members of each request beside model and messages, `preset` among them.
    parameters: dict[str, Any] = field(default_factory=dict)
    #: Without the system message.
    messages: list[dict[str, Any]] = field(default_factory=list)
    #: Texts of files that go before the next message.
    attached: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.messages]
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self.model, "messages": messages, **streamed, **self.parameters}

    def hear(self, line: str) -> bool:
        """A message, which is answered, or a /command; whether the conversation goes on."""
        if line.startswith("/"):
            return self._obey(line)
        if self.messages and self.messages[-1]["role"] == "user":
            # Nobody answered it, and templates want turns.
            self.messages.pop()
        content = "\n\n".join([*self.attached, line])
        self.attached.clear()
        self.messages.append({"role": "user", "content": content})
        self.answer()
        return True

    def answer(self) -> None:
        """The model's answer to the last message; a request that fails takes nothing away: /retry sends it again."""
        try:
            said = speaking.speak(self.client, self.console, self.body())
        except ApiError as error:
            show.refusal(self.console, show.told(vars(error)), error.issues, field=error.field)
            return
        if (message := said.message) is not None:
            self.messages.append(message)
        if said.note:
            self.console.print(f"[dim]{escape(said.note)}[/]", soft_wrap=True)

    def _obey(self, line: str) -> bool:
        name, _, rest = line[1:].partition(" ")
        if name in ("exit", "quit"):
            return False
        if name not in COMMANDS:
            self.console.print(f"no command /{escape(name)}; there are {', '.join(f'/{known}' for known in COMMANDS)}")
            return True
        try:
            COMMANDS[name][0](self, rest.strip())
        except (OSError, UnicodeDecodeError, ValueError, TunesmithError) as error:
            told = error.message if isinstance(error, TunesmithError) else str(error)
            show.refusal(self.console, told, [])
        except ApiError as error:
            show.refusal(self.console, show.told(vars(error)), error.issues, field=error.field)
        return True

    def tell(self, text: str) -> None:
        self.console.print(escape(text), style="dim", soft_wrap=True)


def _help(conversation: Conversation, rest: str) -> None:
    rows = [(f"/{name} {usage}".rstrip(), doc) for name, (_, usage, doc) in COMMANDS.items()]
    show.table(conversation.console, ("", ""), [*rows, ("/exit", "leave; so does Ctrl-D")], "")
    conversation.tell("A line that ends with \\ goes on. Ctrl-C stops an answer.")


def _system(conversation: Conversation, rest: str) -> None:
    conversation.system = rest
    conversation.tell("system message set" if rest else "no system message")


def _set(conversation: Conversation, rest: str) -> None:
    name, _, text = rest.replace("=", " ", 1).partition(" ")
    if name and text.strip():
        conversation.parameters[name] = flags.value(text.strip())
    elif name:
        conversation.parameters.pop(name, None)
    conversation.tell(flags.shown(conversation.parameters) or "no parameters set: the deployment's hold")


def _preset(conversation: Conversation, rest: str) -> None:
    if rest:
        conversation.client.get(f"/v1/presets/{rest}")
    _set(conversation, f"preset {rest}")


def _model(conversation: Conversation, rest: str) -> None:
    if rest:
        conversation.model = rest
    deployed = conversation.client.get("/v1/deployments")["data"]
    told = ", ".join(f"{item['name']} ({item['status']})" for item in deployed)
    conversation.tell(f"asking {conversation.model}; deployed: {told or 'none'}")


def _retry(conversation: Conversation, rest: str) -> None:
    while conversation.messages and conversation.messages[-1]["role"] != "user":
        conversation.messages.pop()
    if conversation.messages:
        conversation.answer()
    else:
        conversation.tell("nothing was asked yet")


def _undo(conversation: Conversation, rest: str) -> None:
    while conversation.messages and conversation.messages.pop()["role"] != "user":
        pass
    conversation.tell(f"{len(conversation.messages)} messages left")


def _clear(conversation: Conversation, rest: str) -> None:
    conversation.messages.clear()
    conversation.attached.clear()
    conversation.tell("begun anew; system message and parameters stay")


def _history(conversation: Conversation, rest: str) -> None:
    for message in conversation.body()["messages"]:
        conversation.console.print(f"[bold]{escape(message['role'])}[/]")
        if message.get("content"):
            conversation.console.out(message["content"], highlight=False)
        for call in message.get("tool_calls") or ():
            speaking.show_call(conversation.console, call["function"]["name"], call["function"]["arguments"])


def _file(conversation: Conversation, rest: str) -> None:
    text = Path(rest).expanduser().read_text(encoding="utf-8")
    conversation.attached.append(text)
    conversation.tell(f"{rest}, {len(text)} characters, goes before the next message")


def _save(conversation: Conversation, rest: str) -> None:
    path = Path(rest).expanduser()
    record = {"messages": conversation.body()["messages"]}
    if path.suffix == ".jsonl":
        # A row of a dataset, as trainings take it: up to the last answer.
        while record["messages"] and record["messages"][-1]["role"] != "assistant":
            record["messages"].pop()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        told = {"model": conversation.model, **record, "parameters": conversation.parameters}
        path.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    conversation.tell(f"{path}: {len(record['messages'])} messages")


def _load(conversation: Conversation, rest: str) -> None:
    told = json.loads(Path(rest).expanduser().read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not all(isinstance(one, dict) for one in told.get("messages") or [None]):
        raise ValueError(f"{rest} is no conversation that /save has written")
    messages = list(told["messages"])
    conversation.system = messages.pop(0)["content"] if messages[0].get("role") == "system" else ""
    conversation.messages = messages
    conversation.parameters = dict(told.get("parameters") or {})
    conversation.tell(f"{len(messages)} messages")


#: Name -> what it does, its argument, what it is for.
COMMANDS: Mapping[str, tuple[Callable[[Conversation, str], None], str, str]] = {
    "help": (_help, "", "this list"),
    "system": (_system, "[TEXT]", "the system message; without a text: none"),
    "set": (_set, "[NAME [VALUE]]", "a generation parameter, e.g. /set temperature 0.2; without a value: left out"),
    "preset": (_preset, "[NAME]", "parameters kept on the server under a name; without one: none"),
    "model": (_model, "[NAME]", "ask another; without a name: who is asked and what is deployed"),
    "retry": (_retry, "", "answer the last message again"),
    "undo": (_undo, "", "forget the last message and its answer"),
    "clear": (_clear, "", "begin anew"),
    "history": (_history, "", "what was said"),
    "file": (_file, "PATH", "put a file's text before the next message"),
    "save": (_save, "PATH", "as JSON; to a .jsonl file it is added as a row to train on"),
    "load": (_load, "PATH", "go on with what /save has written"),
}
