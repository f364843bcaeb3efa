"""Dataset files that must be refused: what each holds, how it is described, and what is said about it.

One table: name -> file, form fields, wanted complaint. The files are made here, small where they can be, as large as it
takes where size is what is wrong.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from arro3 import core, io

GOOD: dict[str, Any] = {"instruction": "a", "output": "b"}
ALPACA = json.dumps(GOOD).encode()
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}
PAIR: dict[str, Any] = {"prompt": "a", "chosen": "b", "rejected": "c"}
LABELLED: dict[str, Any] = {"prompt": "a", "completion": "b", "label": True}


@dataclass(frozen=True, kw_only=True)
class Bad:
    content: bytes
    #: The field under which the first complaint is filed, what it says, and its line or row.
    field: str
    says: str
    line: int | None = None
    filename: str = "data.jsonl"
    form: Mapping[str, str] = field(default_factory=dict)
    status: int = 422


def lines(*rows: Any) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n"


def talk(*messages: Any, **more: Any) -> bytes:
    return lines({"messages": [USER, ANSWER]}, {"messages": list(messages), **more})


def tell(*messages: Any, **more: Any) -> bytes:
    return lines({"conversations": [HUMAN, GPT]}, {"conversations": list(messages), **more})


def as_form(**given: Any) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def parquet(rows: list[dict[str, str | None]], compression: str | None = None) -> bytes:
    columns = {name: core.Array([row[name] for row in rows], core.DataType.utf8()) for name in rows[0]}
    file = BytesIO()
    io.write_parquet(core.Table.from_pydict(columns), file, compression=compression)
    return file.getvalue()


def arrow(write: Any, rows: list[dict[str, str]]) -> bytes:
    columns = {name: core.Array([row[name] for row in rows], core.DataType.utf8()) for name in rows[0]}
    file = BytesIO()
    write(core.Table.from_pydict(columns), file)
    return file.getvalue()


FILES: dict[str, Bad] = {
    # Nothing, or nothing that is a dataset
    "empty": Bad(content=b"", field="file", says="is empty"),
    "only white space": Bad(content=b" \n\r\n\t\n", field="file", says="is empty"),
    "a byte order mark alone": Bad(content=b"\xef\xbb\xbf", field="file", says="is empty"),
    "an empty list": Bad(content=b"[]", field="file", says="is empty", filename="data.json"),
    "a csv header alone": Bad(content=b"instruction,output\n", field="file", says="is empty", filename="data.csv"),
    "blank lines of text": Bad(content=b"\n \n\n", field="file", says="is empty", filename="a.txt"),
    "a number": Bad(content=b"[5]", field="row", says="must be a JSON object", line=1),
    "a list in a list": Bad(content=b"[[" + ALPACA + b"]]", field="row", says="must be a JSON object", line=1),
    "a null": Bad(content=b"[null]", field="row", says="must be a JSON object", line=1),
    "one object over many lines": Bad(
        content=json.dumps(GOOD, indent=1).encode(), field="row", says="is not JSON", line=1
    ),
    "a map of rows": Bad(content=lines({"data": [GOOD]}), field="messages", says="must be a list of messages", line=1),
    "a zip archive": Bad(content=b"PK\x03\x04" + bytes(40), field="file", says="is a zip archive"),
    "an xz file": Bad(content=b"\xfd7zXZ\x00" + bytes(40), field="file", says="packed with xz"),
    "a zstd file": Bad(content=b"\x28\xb5\x2f\xfd" + bytes(40), field="file", says="packed with zstd"),
    "a bzip2 file": Bad(content=b"BZh91AY&SY" + bytes(40), field="file", says="packed with bzip2"),
    "a PDF": Bad(content=b"%PDF-1.7\n%\xe2\xe3", field="file", says="is a PDF"),
    "a SQLite database": Bad(content=b"SQLite format 3\0" + bytes(80), field="file", says="is a SQLite database"),
    "an HDF5 file": Bad(content=b"\x89HDF\r\n\x1a\n" + bytes(80), field="file", says="is HDF5"),
    "a picture": Bad(content=b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", field="file", says="is a binary file"),
    # Encodings and characters
    "UTF-16 with a mark": Bad(content=json.dumps(GOOD).encode("utf-16"), field="file", says="is UTF-16"),
    "UTF-16 without a mark": Bad(content=json.dumps(GOOD).encode("utf-16-le"), field="file", says="is a binary file"),
    "Latin-1": Bad(
        content=lines(GOOD) + '{"instruction": "caf\xe9", "output": "b"}'.encode("latin-1"),
        field="row",
        says="is not UTF-8",
        line=2,
    ),
    "half a character at the end": Bad(content=ALPACA[:-2] + b"\xe4\xb8", field="row", says="is not UTF-8", line=1),
    "GBK in a csv": Bad(
        content=b"instruction,output\na,b\n\xc4\xe3\xba\xc3,c\n",
        field="row",
        says="is not UTF-8",
        line=3,
        filename="data.csv",
    ),
    "Latin-1 in a text": Bad(content=b"one\ncaf\xe9\n", field="row", says="is not UTF-8", line=2, filename="a.txt"),
    "Latin-1 in a list": Bad(
        content=b"[" + ALPACA + b',\n{"instruction": "\xe9", "output": "b"}]', field="row", says="is not UTF-8", line=2
    ),
    "NUL in a line": Bad(
        content=lines(*[GOOD] * 9, b'{"instruction": "a\0", "output": "b"}'), field="row", says="NUL", line=10
    ),
    "NUL as an escape": Bad(content=rb'{"instruction": "\u0000", "output": "b"}', field="row", says="NUL", line=1),
    "NUL in a csv": Bad(
        content=b"instruction,output\n" + b"a,b\n" * 20 + b"a\0,b\n",
        field="row",
        says="NUL",
        line=22,
        filename="data.csv",
    ),
    "NUL in a text": Bad(content=b"x" * 99 + b"\na\0b\n", field="row", says="NUL", line=2, filename="a.txt"),
    "half a surrogate pair": Bad(
        content=rb'{"instruction": "\ud83d", "output": "b"}', field="row", says="surrogate", line=1
    ),
    "a mark in the middle": Bad(content=lines(GOOD, b"\xef\xbb\xbf" + ALPACA), field="row", says="is not JSON", line=2),
    # JSON that is none
    "truncated line": Bad(content=lines(GOOD) + ALPACA[:-6], field="row", says="is not JSON", line=2),
    "truncated list": Bad(content=b"[" + ALPACA + b",\n" + ALPACA[:10], field="row", says="is not JSON", line=2),
    "a list without an end": Bad(content=b"[" + ALPACA, field="row", says="must be followed by", line=1),
    "a comma too many": Bad(content=b"[" + ALPACA + b",]", field="row", says="is not JSON", line=1),
    "a comma too few": Bad(
        content=b"[" + ALPACA + b"\n" + ALPACA + b"]", field="row", says="must be followed by", line=2
    ),
    "text behind the list": Bad(content=b"[" + ALPACA + b"]\n\nmore", field="row", says="after the end", line=3),
    "two rows on a line": Bad(content=lines(GOOD, ALPACA + ALPACA), field="row", says="Extra data", line=2),
    "single quotes": Bad(
        content=lines(GOOD, b"{'instruction': 'a', 'output': 'b'}"), field="row", says="is not JSON", line=2
    ),
    "a comment": Bad(content=lines(GOOD, b"// a comment"), field="row", says="is not JSON", line=2),
    "a key twice": Bad(
        content=b'{"instruction": "a", "instruction": "c", "output": "b"}',
        field="instruction",
        says="given twice",
        line=1,
    ),
    "a key twice within": Bad(
        content=b'{"messages": [{"role": "user", "role": "user", "content": "a"}]}',
        field="role",
        says="given twice",
        line=1,
    ),
    "NaN": Bad(content=b'{"instruction": "a", "output": "b", "score": NaN}', field="row", says="NaN", line=1),
    "infinity": Bad(
        content=b'{"instruction": "a", "output": "b", "score": -Infinity}', field="row", says="Infinity", line=1
    ),
    "a number of 5000 digits": Bad(
        content=b'{"instruction": "a", "output": "b", "n": ' + b"9" * 5000 + b"}", field="row", says="digits", line=1
    ),
    "nested without end": Bad(
        content=b'{"instruction": ' + b"[" * 100_000, field="row", says="nested too deep", line=1
    ),
    "nested and closed": Bad(
        content=b'{"instruction": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", field="row", says="nested too deep", line=1
    ),
    "a line of 10 MB": Bad(
        content=lines(GOOD, {"instruction": "x" * 10_000_000, "output": "b"}),
        field="row",
        says="is longer than",
        line=2,
    ),
    "a row of 10 MB in a list": Bad(
        content=json.dumps([GOOD, {"instruction": "x" * 10_000_000, "output": "b"}]).encode(),
        field="row",
        says="is longer than",
        line=1,
    ),
    # Columns of instructions
    "no answer": Bad(content=lines(GOOD, {"instruction": "a"}), field="output", says="is missing", line=2),
    "no question": Bad(content=lines(GOOD, {"output": "b"}), field="instruction", says="is missing", line=2),
    "an empty question": Bad(
        content=lines(GOOD, {"instruction": "", "output": "b"}), field="instruction", says="is empty", line=2
    ),
    "an empty answer": Bad(
        content=lines({"instruction": "a", "output": "  "}), field="output", says="is empty", line=1
    ),
    "a number as a question": Bad(
        content=lines({"instruction": 5, "output": "b"}), field="instruction", says="must be text", line=1
    ),
    "a number as an answer": Bad(
        content=lines(GOOD, {"instruction": "2+3", "output": 5}), field="output", says="must be text", line=2
    ),
    "a list as an answer": Bad(
        content=lines({"instruction": "a", "output": ["b"]}), field="output", says="must be text", line=1
    ),
    "an object as input": Bad(content=lines(GOOD | {"input": {"a": 1}}), field="input", says="must be text", line=1),
    "a number as system": Bad(content=lines(GOOD | {"system": 1}), field="system", says="must be text", line=1),
    "history of one": Bad(
        content=lines(GOOD | {"history": [["a"]]}), field="history", says="[user text, assistant text]", line=1
    ),
    "history of numbers": Bad(content=lines(GOOD | {"history": [[1, 2]]}), field="history", says="list of", line=1),
    "history that is flat": Bad(content=lines(GOOD | {"history": ["a", "b"]}), field="history", says="list of", line=1),
    "history as text": Bad(content=lines(GOOD | {"history": "a"}), field="history", says="list of", line=1),
    "rows of two formats": Bad(
        content=lines(GOOD, {"messages": [USER, ANSWER]}), field="instruction", says="is missing", line=2
    ),
    "columns of nobody": Bad(
        content=lines({"q": "a", "a": "b"}), field="messages", says="must be a list of messages", line=1
    ),
    # Conversations
    "no messages": Bad(content=talk(), field="messages", says="must be a list of messages", line=2),
    "messages as text": Bad(
        content=lines({"messages": [USER, ANSWER]}, {"messages": "[]"}), field="messages", says="must be a list", line=2
    ),
    "a message as text": Bad(content=talk("a", "b"), field="messages[0]", says="must be an object", line=2),
    "no role": Bad(content=talk({"content": "a"}, ANSWER), field="messages[0].role", says="must be one of", line=2),
    "an unknown role": Bad(
        content=talk(USER, ANSWER | {"role": "bot"}), field="messages[1].role", says="'bot'", line=2
    ),
    "a role in capitals": Bad(
        content=talk(USER | {"role": "User"}, ANSWER), field="messages[0].role", says="'User'", line=2
    ),
    "no content": Bad(content=talk({"role": "user"}, ANSWER), field="messages[0].content", says="must be text", line=2),
    "an empty answer of a chat": Bad(
        content=talk(USER, ANSWER | {"content": ""}), field="messages[1].content", says="has no content", line=2
    ),
    "a number as content": Bad(
        content=talk(USER | {"content": 1}, ANSWER), field="messages[0].content", says="must be text", line=2
    ),
    "an answer first": Bad(
        content=talk(ANSWER, USER, ANSWER), field="messages", says="begin with a user message", line=2
    ),
    "a question last": Bad(content=talk(USER, ANSWER, USER), field="messages", says="end with an assistant", line=2),
    "two questions": Bad(content=talk(USER, USER, ANSWER), field="messages[1]", says="another message of user", line=2),
    "two answers": Bad(
        content=talk(USER, ANSWER, ANSWER), field="messages[2]", says="another message of assistant", line=2
    ),
    "a late system prompt": Bad(
        content=talk(USER, ANSWER, {"role": "system", "content": "s"}, ANSWER),
        field="messages[2]",
        says="must be the first",
        line=2,
    ),
    "a system prompt alone": Bad(
        content=talk({"role": "system", "content": "s"}), field="messages", says="end with", line=2
    ),
    "a tool that nobody called": Bad(
        content=talk(USER, {"role": "tool", "content": "3"}, ANSWER),
        field="messages[1]",
        says="must come between",
        line=2,
    ),
    "a weight of two": Bad(
        content=talk(USER, ANSWER | {"weight": 2}), field="messages[1].weight", says="0 or 1", line=2
    ),
    "a picture in a message": Bad(
        content=talk(USER | {"content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
        field="messages[0].content",
        says="not text",
        line=2,
    ),
    "too many messages": Bad(content=talk(*[USER, ANSWER] * 5_001), field="messages", says="at most 10000", line=2),
    "an unknown speaker": Bad(
        content=tell(HUMAN, {"from": "bot", "value": "b"}), field="conversations[1].from", says="'bot'", line=2
    ),
    "no value": Bad(content=tell(HUMAN, {"from": "gpt"}), field="conversations[1].value", says="must be text", line=2),
    "an empty call": Bad(
        content=tell(HUMAN, {"from": "function_call", "value": " "}),
        field="conversations[1].value",
        says="is empty",
        line=2,
    ),
    "tags of another format": Bad(content=tell(USER, ANSWER), field="conversations[0].from", says="None", line=2),
    # Tools
    "tools that are no JSON": Bad(content=talk(USER, ANSWER, tools="[{"), field="tools", says="is not JSON", line=2),
    "tools as an object": Bad(
        content=talk(USER, ANSWER, tools={"name": "add"}), field="tools", says="list of tools", line=2
    ),
    "a tool without a name": Bad(
        content=talk(USER, ANSWER, tools=[{"description": "adds"}]), field="tools[0]", says="object with a name", line=2
    ),
    "a tool as text": Bad(
        content=talk(USER, ANSWER, tools=["add"]), field="tools[0]", says="object with a name", line=2
    ),
    "calls as text": Bad(
        content=talk(USER, ANSWER | {"tool_calls": "add()"}),
        field="messages[1].tool_calls",
        says="list of calls",
        line=2,
    ),
    "a call without a function": Bad(
        content=talk(USER, ANSWER | {"tool_calls": [{"name": "add"}]}),
        field="messages[1].tool_calls[0]",
        says="function.name",
        line=2,
    ),
    # Preference pairs, labels, plain text
    "equal answers": Bad(
        content=lines(PAIR, PAIR | {"rejected": "b"}), field="rejected", says="nothing is preferred", line=2
    ),
    "no rejected answer": Bad(
        content=lines(PAIR, {"prompt": "a", "chosen": "b"}), field="rejected", says="is missing", line=2
    ),
    "an empty rejected answer": Bad(content=lines(PAIR | {"rejected": ""}), field="rejected", says="is empty", line=1),
    "two messages as an answer": Bad(
        content=lines(PAIR | {"chosen": [USER, ANSWER]}), field="chosen", says="one message", line=1
    ),
    "a question as an answer": Bad(
        content=lines(PAIR | {"rejected": USER}), field="rejected", says="must be the assistant's", line=1
    ),
    "a pair that is answered": Bad(
        content=lines({"messages": [USER, ANSWER], "chosen": "b", "rejected": "c"}),
        field="messages",
        says="before the answer",
        line=1,
    ),
    "OpenAI's pair without input": Bad(
        content=lines({"input": {}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}),
        field="input.messages",
        says="must be a list of messages",
        line=1,
    ),
    "a label as text": Bad(
        content=lines(LABELLED, LABELLED | {"label": "true"}), field="label", says="must be true", line=2
    ),
    "a label as a number": Bad(
        content=lines(LABELLED, LABELLED | {"label": 1}), field="label", says="must be true", line=2
    ),
    "no label": Bad(
        content=lines(LABELLED, {"prompt": "a", "completion": "b"}), field="label", says="must be true", line=2
    ),
    "a word as a label of a csv": Bad(
        content=b"prompt,completion,label\na,b,good\n",
        field="label",
        says="'good'",
        line=2,
        filename="d.csv",
        form=as_form(columns={"prompt": "prompt", "response": "completion", "kto_tag": "label"}),
    ),
    "a text that is a number": Bad(
        content=lines({"text": "a"}, {"text": 5}), field="text", says="must be text", line=2
    ),
    "an empty text": Bad(content=lines({"text": "a"}, {"text": " "}), field="text", says="is empty", line=2),
    "images beside the text": Bad(
        content=lines({"messages": [USER, ANSWER], "images": ["a.png"]}),
        field="images",
        says="only text",
        line=1,
        form=as_form(formatting="openai", columns={"messages": "messages", "images": "images"}),
    ),
    # CSV
    "a quote without an end": Bad(
        content=b'instruction,output\n"a,b\n', field="row", says="is not CSV", line=2, filename="d.csv"
    ),
    "text behind a quote": Bad(
        content=b'instruction,output\n"a" b,c\n', field="row", says="is not CSV", line=2, filename="d.csv"
    ),
    "a column too many": Bad(
        content=b"instruction,output\na,b,c\n", field="row", says="another number of columns", line=2, filename="d.csv"
    ),
    "a column too few": Bad(
        content=b"instruction,output\na,b\na\n", field="row", says="another number of columns", line=3, filename="d.csv"
    ),
    "a column named twice": Bad(
        content=b"instruction,output,output\na,b,c\n", field="row", says="two columns", line=1, filename="d.csv"
    ),
    "semicolons": Bad(
        content=b"instruction;output\na;b\n", field="messages", says="must be a list", line=2, filename="d.csv"
    ),
    # Parquet and Arrow
    "Parquet without an end": Bad(content=parquet([GOOD])[:-10], field="row", says="cannot be read", line=1),
    "half a Parquet file": Bad(content=parquet([GOOD] * 90)[:300], field="row", says="cannot be read", line=1),
    "Parquet's first bytes": Bad(content=b"PAR1", field="row", says="cannot be read", line=1),
    "encrypted Parquet": Bad(content=b"PAR1" + bytes(60) + b"PARE", field="file", says="encrypted"),
    "an encrypted footer": Bad(content=b"PARE" + bytes(60) + b"PARE", field="file", says="encrypted"),
    "Parquet with a bad row": Bad(
        content=parquet([GOOD, GOOD | {"output": None}]), field="output", says="is missing", line=2
    ),
    "Parquet with NUL": Bad(content=parquet([GOOD, GOOD | {"output": "a\0"}]), field="row", says="NUL", line=2),
    "Parquet that swells": Bad(
        content=parquet([GOOD | {"output": "x" * 3_000_000}] * 24, "zstd(3)"), field="row", says="swells", line=1
    ),
    "an Arrow file without an end": Bad(
        content=arrow(io.write_ipc, [GOOD])[:-10], field="row", says="cannot be read", line=1
    ),
    "half an Arrow stream": Bad(
        content=arrow(io.write_ipc_stream, [GOOD])[:150], field="row", says="cannot be read", line=1
    ),
    "an Arrow stream of no rows": Bad(
        content=arrow(io.write_ipc_stream, [GOOD])[:4] + bytes(4), field="row", says="cannot be read", line=1
    ),
    # Packed
    "half a gzip file": Bad(
        content=gzip.compress(lines(*[GOOD] * 2000))[:60], field="file", says="not a whole gzip file"
    ),
    "gzip of gzip": Bad(content=gzip.compress(gzip.compress(ALPACA)), field="file", says="is a binary file"),
    "gzip of Parquet": Bad(content=gzip.compress(parquet([GOOD])), field="file", says="upload it unpacked"),
    "gzip that swells": Bad(content=gzip.compress(b" " * 60_000_000), field="file", says="unpacks to more than"),
    "gzip with a broken row": Bad(
        content=gzip.compress(lines(GOOD, {"instruction": "a"})), field="output", says="is missing", line=2
    ),
    # Descriptions
    "an unknown formatting": Bad(
        content=ALPACA, form={"formatting": "alpacca"}, field="formatting", says="did you mean 'alpaca'"
    ),
    "an unknown column": Bad(
        content=ALPACA, form=as_form(columns={"promt": "a"}), field="columns", says="did you mean 'prompt'"
    ),
    "an unknown tag": Bad(content=ALPACA, form=as_form(tags={"role": "a"}), field="tags", says="has 'role'"),
    "columns that are no JSON": Bad(
        content=ALPACA, form={"columns": "prompt=a"}, field="columns", says="is not JSON", status=400
    ),
    "columns as a list": Bad(content=ALPACA, form=as_form(columns=["prompt"]), field="columns", says="object of texts"),
    "a column that is a number": Bad(
        content=ALPACA, form=as_form(columns={"prompt": 1}), field="columns", says="object of texts"
    ),
    "a column that no row has": Bad(
        content=ALPACA,
        form=as_form(columns={"prompt": "q", "response": "output"}),
        field="q",
        says="is missing",
        line=1,
    ),
    "messages without a format": Bad(
        content=talk(USER, ANSWER),
        form=as_form(columns={"messages": "messages"}),
        field="columns",
        says="set formatting to sharegpt or openai",
    ),
    "a format without its column": Bad(
        content=talk(USER, ANSWER),
        field="columns",
        says="names no messages",
        form=as_form(formatting="openai", columns={"tools": "tools"}),
    ),
    "the other format": Bad(
        content=tell(HUMAN, GPT), form={"formatting": "openai"}, field="messages", says="must be a list", line=1
    ),
    "a ranking without pairs": Bad(
        content=ALPACA, form={"ranking": "true"}, field="ranking", says="no chosen and rejected"
    ),
    "a ranking of one": Bad(
        content=lines(PAIR),
        field="columns",
        says="names no rejected",
        form=as_form(ranking=True, columns={"prompt": "prompt", "chosen": "chosen"}),
    ),
    "a ranking as a word": Bad(
        content=lines(PAIR), form={"ranking": "yes"}, field="ranking", says="is not JSON", status=400
    ),
    "pairs that do not rank": Bad(
        content=lines(PAIR), form={"ranking": "false"}, field="ranking", says="chosen and rejected"
    ),
    "no samples": Bad(content=ALPACA, form={"num_samples": "0"}, field="num_samples", says="whole number from 1"),
    "a split of a file": Bad(content=ALPACA, form={"split": "test"}, field="split", says="a file has none"),
    "a subset of a file": Bad(content=ALPACA, form={"subset": "en"}, field="subset", says="a file has none"),
    "a description twice": Bad(
        content=ALPACA,
        form=as_form(dataset_info={"formatting": "alpaca"}, formatting="alpaca"),
        field="formatting",
        says="beside dataset_info",
    ),
    "a description of others": Bad(
        content=ALPACA, form=as_form(dataset_info={"x": {}, "y": {}}), field="dataset_info", says="has no entry"
    ),
    "a description that is no JSON": Bad(
        content=ALPACA, form={"dataset_info": "{"}, field="dataset_info", says="is not JSON", status=400
    ),
    "an unknown key of an entry": Bad(
        content=ALPACA, form=as_form(dataset_info={"colums": {}}), field="dataset_info", says="did you mean 'columns'"
    ),
    "an unknown field": Bad(
        content=ALPACA, form={"formating": "alpaca"}, field="formating", says="did you mean 'formatting'"
    ),
    "an unknown purpose": Bad(content=ALPACA, form={"purpose": "train"}, field="purpose", says="must be one of"),
    "a name with a slash": Bad(content=ALPACA, form={"name": "a/b"}, field="name", says="without commas, slashes"),
    # Batches are files, too
    "a batch without ids": Bad(
        content=ALPACA, form={"purpose": "batch"}, field="custom_id", says="names this line", line=1
    ),
    "a batch with an id twice": Bad(
        content=lines(*[{"custom_id": "a", "prompt": "x"}] * 2),
        form={"purpose": "batch"},
        field="custom_id",
        says="as in line 1",
        line=2,
    ),
}
