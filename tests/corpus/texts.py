"""Bodies that cannot be read, or not as what they pretend to be: syntax, encodings, types, sizes."""

from __future__ import annotations

import gzip
import json
import zlib

from tests.corpus.configs import GOOD, GOOD_YAML, YAML, Case, nested, text, yaml

BODY = json.dumps(GOOD)


def _aliases() -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    return GOOD_YAML + "\n".join(lines)


SYNTAX = [
    text("nothing", "", "body", "not JSON"),
    text("spaces", "  \n ", "body", "not JSON"),
    text("null", "null", "body", "object"),
    text("true", "true", "body", "object"),
    text("a number", "3", "body", "object"),
    text("a text", json.dumps(BODY), "body", "object"),
    text("a list", f"[{BODY}]", "body", "object"),
    text("truncated", BODY[:-1], "body", "not JSON"),
    text("truncated in a text", BODY[:20], "body", "not JSON"),
    text("two objects", BODY + BODY, "body", "not JSON"),
    text("a comma too many", BODY[:-1] + ",}", "body", "not JSON"),
    text("single quotes", BODY.replace('"', "'"), "body", "not JSON"),
    text("a comment", "// good\n" + BODY, "body", "not JSON"),
    text("NaN", BODY[:-1] + ', "learning_rate": NaN}', "body", "NaN is not a JSON number"),
    text("Infinity", BODY[:-1] + ', "learning_rate": Infinity}', "body", "Infinity is not"),
    text("-Infinity", BODY[:-1] + ', "learning_rate": -Infinity}', "body", "-Infinity is not"),
    text("1e400", BODY[:-1] + ', "learning_rate": 1e400}', "learning_rate", "finite", status=422),
    text("-1e400", BODY[:-1] + ', "val_size": -1e400}', "val_size", "finite", status=422),
    text("a number with a zero before", BODY[:-1] + ', "lora_rank": 08}', "body", "not JSON"),
    text("a number in hexadecimal", BODY[:-1] + ', "lora_rank": 0x8}', "body", "not JSON"),
    text("2,000 digits", BODY[:-1] + f', "lora_rank": {"9" * 2000}}}', "body", "digits"),
    text("1,000,000 digits", BODY[:-1] + f', "learning_rate": 0.{"9" * 1_000_000}}}', "body", "digits"),
    text("a key twice", BODY[:-1] + ', "dataset": "other"}', "dataset", "given twice"),
    text("a key twice within", BODY[:-1] + ', "metadata": {"a": "1", "a": "2"}}', "a", "given twice"),
    text("nested 100,000 deep", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "body", "nested too deep"),
    text("nested 5,000 objects deep", '{"a":' * 5_000 + "1" + "}" * 5_000, "body", "nested too deep"),
    text("NUL", BODY.replace("tiny", "ti\0ny"), "body", "not JSON"),
    text("a control character", BODY.replace("tiny", "ti\x01ny"), "body", "not JSON"),
    text("half an escape", BODY[:-1] + ', "output_dir": "\\ud83d"}', "output_dir", "surrogate", status=422),
]
ENCODINGS = [
    text("UTF-16", BODY.encode("utf-16"), "body", "UTF-8"),
    text("UTF-16 without a mark", BODY.encode("utf-16-le"), "body", "not JSON"),
    text("UTF-32", BODY.encode("utf-32"), "body", "UTF-8"),
    text("latin-1", (BODY[:-1] + ', "name": "\u00fc"}').encode("latin-1"), "body", "UTF-8"),
    text("half a character", BODY.encode() + b"\xe2\x82", "body", "UTF-8"),
    text("an overlong character", BODY.encode().replace(b"tiny", b"\xc0\xaf"), "body", "UTF-8"),
    text("a surrogate in bytes", BODY.encode().replace(b"tiny", b"\xed\xa0\x80"), "body", "UTF-8"),
    text("two marks", b"\xef\xbb\xbf\xef\xbb\xbf" + BODY.encode(), "body", "not JSON"),
    text("gzip without saying so", gzip.compress(BODY.encode()), "body", "UTF-8"),
    yaml("UTF-16", GOOD_YAML.encode("utf-16"), "UTF-8"),
    yaml("latin-1", GOOD_YAML.encode() + b"name: \xfc\n", "UTF-8"),
]
YAMLS = [
    yaml("nothing", "", "mapping"),
    yaml("a comment", "# good\n", "mapping"),
    yaml("a word", "train", "mapping"),
    yaml("a list", "- model_name_or_path: tiny\n", "mapping"),
    yaml("tabs", "model_name_or_path: tiny\ndeepspeed:\n\tzero_optimization: 1\n", "line 3"),
    yaml("two documents", GOOD_YAML + "---\n" + GOOD_YAML, "more than one document"),
    yaml("a key twice", GOOD_YAML + "dataset: other\n", "given twice", field="dataset"),
    yaml("an anchor", "model_name_or_path: &m tiny\ndataset: *m\n", "anchors"),
    yaml("an alias bomb", _aliases(), "anchors"),
    yaml("an alias of nothing", GOOD_YAML + "name: *n\n", "anchors"),
    yaml("a merge key", GOOD_YAML + "base: &b {x: 1}\nmore:\n  <<: *b\n", "anchors"),
    yaml("a Python object", GOOD_YAML + "name: !!python/object/apply:os.system [reboot]\n", "tags"),
    yaml("a Python name", GOOD_YAML + "name: !!python/name:os.system\n", "tags"),
    yaml("a tag of its own", GOOD_YAML + "name: !env TOKEN\n", "tags"),
    yaml("binary", GOOD_YAML + "name: !!binary aGVsbG8=\n", "tags"),
    yaml("a directive", "%YAML 9.9\n---\n" + GOOD_YAML, ""),
    yaml("nested deep", GOOD_YAML + "deepspeed: " + "[" * 50 + "]" * 50 + "\n", "nested deeper"),
    yaml("nested 100,000 deep", GOOD_YAML + "deepspeed: " + "[" * 100_000, "nested deeper"),
    yaml("a flood of values", GOOD_YAML + "dataset2: [" + "a, " * 20_000 + "]\n", "more than"),
    yaml("a mapping as a name", GOOD_YAML + "? {a: 1}\n: 2\n", "plain text"),
    yaml("an open bracket", GOOD_YAML + "lora_target: [q_proj\n", "line"),
    yaml("an open quote", GOOD_YAML + 'name: "first\n', "line"),
    yaml("wrong indent", "model_name_or_path: tiny\n  dataset: identity\n", "line 2"),
    yaml("NUL", GOOD_YAML + "name: a\0b\n", "NUL"),
    yaml("an escape", GOOD_YAML + "name: \x1b[31m\n", ""),
    yaml("10,000 digits", GOOD_YAML + "lora_rank: " + "9" * 10_000 + "\n", "digits"),
    yaml("yes", GOOD_YAML + "bf16: yes\n", "true or false", field="bf16", status=422),
    yaml("off", GOOD_YAML + "packing: off\n", "true or false", field="packing", status=422),
    yaml("a number in quotes", GOOD_YAML + 'lora_rank: "8"\n', "whole number", field="lora_rank", status=422),
    yaml("underscores", GOOD_YAML + "cutoff_len: 2_048\n", "whole number", field="cutoff_len", status=422),
    yaml("a date", GOOD_YAML + "seed: 2024-01-01\n", "whole number", field="seed", status=422),
    yaml("a sexagesimal", GOOD_YAML + "seed: 1:30\n", "whole number", field="seed", status=422),
    yaml(".nan", GOOD_YAML + "learning_rate: .nan\n", "finite", field="learning_rate", status=422),
    yaml(".inf", GOOD_YAML + "learning_rate: -.inf\n", "finite", field="learning_rate", status=422),
    yaml("1e999", GOOD_YAML + "learning_rate: 1e999\n", "finite", field="learning_rate", status=422),
    yaml("nothing after the colon", "model_name_or_path:\ndataset: identity\n", "is null",
         field="model_name_or_path", status=422),
    yaml("JSON in another type", BODY[:-1], "line", status=400),
]  # fmt: skip
TYPES = [
    text("text/plain", BODY, "Content-Type", "application/json or application/yaml", status=415,
         content_type="text/plain"),
    text("a form", "model=tiny", "Content-Type", "application/json or application/yaml", status=415,
         content_type="application/x-www-form-urlencoded"),
    text("multipart", "--X--", "Content-Type", "application/json or application/yaml", status=415,
         content_type="multipart/form-data; boundary=X"),
    text("XML", "<a/>", "Content-Type", "application/json or application/yaml", status=415,
         content_type="application/xml"),
    text("YAML as JSON", GOOD_YAML, "body", "not JSON"),
    text("JSON in another encoding", (BODY[:-1] + ', "name": "\u00fc"}').encode("latin-1"), "body", "UTF-8",
         content_type="application/json; charset=latin-1"),
    Case(id="gzip", body=gzip.compress(BODY.encode()), field="Content-Encoding", part="gzip", status=415,
         headers={"Content-Encoding": "gzip"}),
    Case(id="deflate", body=zlib.compress(BODY.encode()), field="Content-Encoding", part="deflate", status=415,
         headers={"Content-Encoding": "deflate"}),
    Case(id="a gzip bomb", body=gzip.compress(b" " * 50_000_000), field="Content-Encoding", part="gzip", status=415,
         headers={"Content-Encoding": "gzip"}),
    Case(id="gzip, YAML", body=gzip.compress(GOOD_YAML.encode()), field="Content-Encoding", part="gzip", status=415,
         content_type=YAML, headers={"Content-Encoding": "gzip"}),
    Case(id="an idempotency key of 300", body=BODY.encode(), field="Idempotency-Key", part="255", status=400,
         headers={"Idempotency-Key": "x" * 300}),
]  # fmt: skip
SIZES = [
    text("10 MB", BODY[:-1] + ', "default_system": "' + "x" * 10_000_000 + '"}', "body", "larger than", status=413),
    text("10 MB of spaces", BODY + " " * 10_000_000, "body", "larger than", status=413),
    text("7 MB in one value", BODY[:-1] + ', "default_system": "' + "x" * 7_000_000 + '"}', "default_system",
         "at most 65536", status=422),
    text("7 MB of a list", BODY[:-1] + ', "lora_target": [' + '"q_proj",' * 700_000 + '"x"]}', "lora_target",
         "at most 1024", status=422),
    text("a name of 1 MB", "{" + json.dumps("x" * 1_000_000) + ": 1}", "x", "is unknown", status=422),
    text("an object of 200,000 names", json.dumps({**GOOD, **{f"f{n}": n for n in range(200_000)}}), "body",
         "at most 1000", status=422),
    text("a DeepSpeed object of 100,000 names", json.dumps({**GOOD, "deepspeed": {f"k{n}": n for n in range(100_000)}}),
         "deepspeed", "not allowed", status=422),
    text("a metadata of 100,000 names", json.dumps({**GOOD, "metadata": {str(n): "" for n in range(100_000)}}),
         "metadata", "at most 16", status=422),
    text("a deep value", json.dumps({**GOOD, "lora_rank": nested(900)}), "lora_rank", "whole number", status=422),
    yaml("1 MB", GOOD_YAML + "# " + "x" * 1_000_000, "at most", status=413),
]  # fmt: skip
CASES = [*SYNTAX, *ENCODINGS, *YAMLS, *TYPES, *SIZES]
