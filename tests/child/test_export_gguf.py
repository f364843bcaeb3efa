"""GGUF files as llama.cpp itself loads and answers them: tokens, template, ends, positions, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType
from gguf import quants as plain
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from export_worker.child import quantizers
from export_worker.child.asked import Sample
from export_worker.child.failed import VerificationFailed
from export_worker.child.llamacpp import ask, convert, ggml, importance, modelfile, types
from export_worker.child.llamacpp.client import LlamaCpp, LlamaCppFailed
from export_worker.child.reading import Questions, Reading, read_model
from export_worker.child.source import CannotExport, Source
from export_worker.child.watch import Stopped, Watch
from shared import templates
from shared.formats import gguf
from tests.child.export_fixtures import CHAT, Recorder, llama, lora
from tests.child.test_export_run import attempt_folder, left_behind, run_here

#: Tokens of the embedding; the tokenizer has fewer.
VOCABULARY = 320
TEXT = "Question 11 of 2024? Answer number 22: the answer in 2025 is the question. "
#: As few rows and answers as say something.
FEW = {"export_verify_rows": 3, "export_verify_answers": 2, "export_verify_answer_tokens": 12}
DIGITS = pre_tokenizers.Digits(individual_digits=True)


def byte_level(folder: Path, *splitters: Any, chat: str = CHAT, **tokens: str) -> None:
    """A tokenizer with merges, which llama.cpp wants, in place of the folder's. Like SmolLM2's as it is restored from a
    GGUF it says that it falls back to bytes, which sentencepiece's do."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splitters, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.ByteLevel()])
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    given = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"} | tokens
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **given)
    tokenizer.chat_template = chat
    for file in folder.glob("tokenizer*"):
        file.unlink()
    tokenizer.save_pretrained(folder)


def model(folder: Path, *splitters: Any, **config: Any) -> Path:
    llama(folder, vocab_size=VOCABULARY, intermediate_size=256, **config)
    byte_level(folder, *splitters)
    return folder


def questions(tokenizer: Any, length: int = 200) -> Questions:
    ids = tokenizer(TEXT * 20, add_special_tokens=False).input_ids[:length]
    return Questions(
        samples=[Sample(input_ids=ids, score_from=length - 40, answer_from=12)], num_answers=1, answer_tokens=8
    )


def written(folder: Path, type_name: str = "f32") -> Path:
    file = folder / "model.gguf"
    convert.write(folder, file, type_name, name="tiny", watch=Watch(Recorder()))
    return file


def asked(folder: Path, file: Path) -> Reading:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ask.read(file, tokenizer, questions(tokenizer), Watch(Recorder()))


def as_trained(folder: Path) -> Reading:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return read_model(
        Source(model=folder).load(folder, torch.float32), tokenizer, questions(tokenizer), Watch(Recorder())
    )


#: The output folder, its GGUF file, and the result.
Exported = tuple[Path, GGUFReader, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model that ties its embeddings and splits digits, with an adapter, through a whole export."""
    folder = tmp_path_factory.mktemp("gguf")
    base = model(folder / "base", DIGITS, tied=True)
    adapter = lora(base, folder / "adapter", targets="all-linear")
    attempt = attempt_folder(folder / "attempt", base, adapter, spec={"export_format": "gguf"} | FEW)
    done = run_here(attempt)
    output = attempt / "output"
    return output, GGUFReader(output / "model-Q4_K_M.gguf"), done


def told(file: GGUFReader, key: str) -> Any:
    return file.fields[key].contents()


def test_llama_cpp_answers_the_file_about_as_the_merged_model_does(exported: Exported) -> None:
    output, _, done = exported
    found = done["verification"]["quantized"]
    assert found["loss_reference"] == pytest.approx(done["verification"]["merge"]["loss"])
    assert abs(found["loss_increase"]) < 0.2
    assert len(done["verification"]["answers"]["quantized"]) == 2
    assert "relative_difference" not in found
    names = {path.name for path in output.iterdir()}
    assert {"model-Q4_K_M.gguf", "Modelfile", "README.md", "LICENSE"} <= names
    assert "config.json" not in names
    assert "ollama create 'ft:tiny:x' -f Modelfile" in (output / "README.md").read_text()


def test_the_file_says_what_the_tokenizer_does(exported: Exported) -> None:
    output, file, _ = exported
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert (told(file, "tokenizer.ggml.model"), told(file, "tokenizer.ggml.pre")) == ("gpt2", "smollm")
    assert told(file, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert told(file, "tokenizer.ggml.add_bos_token") is False
    assert told(file, "tokenizer.chat_template") == tokenizer.chat_template
    assert told(file, "general.name") == "ft:tiny:x"
    # Rows of the embedding that no token has.
    tokens = told(file, "tokenizer.ggml.tokens")
    assert (len(tokens), tokens[-1]) == (VOCABULARY, f"[PAD{VOCABULARY - 1}]")


def test_a_mix_gives_each_tensor_its_type_and_tied_embeddings_stay_one(exported: Exported) -> None:
    _, file, done = exported
    found = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    assert "output.weight" not in found
    # Rows of 64 weights have no block of 256; those of 256 have, and the last layers get more bits.
    assert found["token_embd.weight"] == "Q8_0"
    assert [found[f"blk.{layer}.ffn_down.weight"] for layer in (0, 1)] == ["Q4_K", "Q6_K"]
    assert (found["blk.0.attn_q.weight"], found["blk.0.attn_norm.weight"]) == ("Q5_0", "F32")
    assert told(file, "general.file_type") == LlamaFileType.MOSTLY_Q4_K_M
    assert (done["quantization"]["method"], done["quantization"]["num_samples"]) == ("q4_k_m", 40)


def test_the_modelfile_writes_conversations_as_the_chat_template_does(exported: Exported) -> None:
    output, _, _ = exported
    text = (output / "Modelfile").read_text()
    assert "FROM ./model-Q4_K_M.gguf\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text
    assert '{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}' in text
    tokenizer = AutoTokenizer.from_pretrained(output)
    tokenizer.chat_template = "{{ messages | length }}" + CHAT
    assert "# No TEMPLATE" in modelfile.text("x.gguf", tokenizer, [])


SCALED = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("kind", SCALED)
def test_positions_are_scaled_as_in_the_training(kind: str, tmp_path: Path) -> None:
    scaled = {"rope_type": kind, "rope_theta": 10000.0} | SCALED[kind]
    folder = model(tmp_path / "model", max_position_embeddings=256, rope_parameters=scaled)
    there = asked(folder, written(folder))
    assert there.loss == pytest.approx(as_trained(folder).loss, abs=0.002)

    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    assert there.loss != pytest.approx(as_trained(folder).loss, abs=0.02)


def test_a_beginning_of_text_that_the_template_writes_is_there_once(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    byte_level(folder, chat="{{ bos_token }}" + CHAT, bos_token="<|begin|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin = ("<|begin|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[begin])
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')

    file = written(folder)

    # Asked with what llama.cpp puts before a prompt.
    asked(folder, file)
    reader = GGUFReader(file)
    assert told(reader, "tokenizer.ggml.add_bos_token") is True
    assert (told(reader, "tokenizer.ggml.eos_token_id"), told(reader, "tokenizer.ggml.eot_token_id")) == (1, 2)


@pytest.mark.parametrize("name", ["qwen3", "deepseek3", "aeva"])
def test_llama_cpp_reads_templates_of_ours(name: str, tmp_path: Path) -> None:
    """They think, write special letters, and take thoughts out of earlier answers."""
    folder = model(tmp_path / "model")
    byte_level(folder, chat=templates.get(name).jinja)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with LlamaCpp(written(folder, "f16"), 256) as there:
        ask.check_template(there, tokenizer)


def test_another_digit_splitter_or_template_than_the_trainings_is_found_out(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", DIGITS)
    file = written(folder)
    byte_level(folder)
    with pytest.raises(VerificationFailed, match=r"llama\.cpp makes other tokens of a text"):
        asked(folder, file)
    byte_level(folder, DIGITS, chat="Hello. " + CHAT)
    with pytest.raises(VerificationFailed, match=r"llama\.cpp writes a conversation otherwise"):
        asked(folder, file)


def test_tokens_that_only_begin_a_character_are_scored_too(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("in \u65e5\u672c", add_special_tokens=False).input_ids
    # Bytes, of which a character takes three.
    assert len(ids) >= 8
    few = Questions(samples=[Sample(input_ids=ids, score_from=2, answer_from=2)], num_answers=0, answer_tokens=1)
    watch = Watch(Recorder())
    there = ask.read(written(folder), tokenizer, few, watch)
    here = read_model(Source(model=folder).load(folder, torch.float32), tokenizer, few, watch)
    assert there.loss == pytest.approx(here.loss, abs=0.002)


def test_a_damaged_file_fails_with_what_llama_cpp_says(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    file = written(folder)
    file.write_bytes(file.read_bytes()[:-50_000])
    with pytest.raises(LlamaCppFailed, match="data is not within the file bounds"), LlamaCpp(file, 64):
        pass


def test_an_unknown_way_to_split_text_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", pre_tokenizers.Punctuation())
    with pytest.raises(CannotExport, match="no name for the way this tokenizer splits text"):
        written(folder)


def test_an_architecture_that_llama_cpp_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    quantizers.check("gguf", Source(model=folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OPTForCausalLM"]}))
    with pytest.raises(CannotExport, match=r"OPTForCausalLM: .* LlamaForCausalLM"):
        quantizers.check("gguf", Source(model=folder))

    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    loaded = {name for one in classes for name in ([one] if isinstance(one, str) else one)}
    assert sorted(loaded & convert.load(folder)[0].module.TEXT_MODEL_MAP.keys()) == sorted(gguf.ARCHITECTURES)


def test_a_cancel_while_llama_cpp_is_asked_leaves_nothing(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    attempt = attempt_folder(tmp_path / "attempt", base, spec={"export_gguf_type": "q8_0"} | FEW)
    recorder = Recorder(cancel_at="tokens")
    with pytest.raises(Stopped):
        run_here(attempt, recorder)
    assert left_behind(attempt) == []
    assert recorder.of_type("phase")[-1]["data"]["phase"] == "verify_quantized"


#: Mean error of normally distributed weights, at most.
ERRORS = {"Q8_0": 0.01, "Q6_K": 0.03, "Q5_K": 0.05, "Q4_K": 0.1, "Q2_K": 0.4}


@pytest.mark.parametrize(("name", "error"), ERRORS.items())
def test_ggmls_codes_mean_the_weights(name: str, error: float) -> None:
    type_ = GGMLQuantizationType[name]
    values = np.random.default_rng(0).standard_normal((8, 512), dtype=np.float32)
    codes = np.concatenate([*ggml.quantize(values, type_)])
    assert codes.nbytes == ggml.num_bytes(values.size, type_)
    back = plain.dequantize(codes.reshape(8, -1), type_)
    assert np.abs(back - values).mean() < error


def test_what_a_weight_is_used_for_decides_how_it_is_rounded(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked, watch = questions(tokenizer), Watch(Recorder())
    loaded = Source(model=folder).load(folder, torch.float32)
    known = importance.measure(loaded, asked.samples, watch)
    names = {name for name, module in loaded.named_modules() if isinstance(module, torch.nn.Linear)}
    assert known.keys() == {f"{name}.weight" for name in names}

    def error(known: importance.Importance) -> float:
        """Of the outputs of a layer, with the inputs that were measured."""
        convert.write(folder, folder / "x.gguf", "q4_0", name="x", watch=watch, importance=known)
        found = next(one for one in GGUFReader(folder / "x.gguf").tensors if one.name == "blk.1.ffn_down.weight")
        off = plain.dequantize(found.data, found.tensor_type) - weight.detach().numpy()
        return float((off**2 * weights).sum())

    weight = loaded.model.layers[1].mlp.down_proj.weight
    weights = known["model.layers.1.mlp.down_proj.weight"]
    assert error(known) < 0.9 * error(convert.NONE)


def test_layers_are_counted_in_their_order() -> None:
    names = ["blk.10.ffn_up.weight", "blk.2.ffn_up.weight", "token_embd.weight"]
    assert types.in_layer_order(names) == ["token_embd.weight", "blk.2.ffn_up.weight", "blk.10.ffn_up.weight"]
    assert types.fitting(GGMLQuantizationType.Q4_K, 576) == GGMLQuantizationType.Q5_0
    assert types.fitting(GGMLQuantizationType.Q4_K, 100) == GGMLQuantizationType.F16


def test_of_large_files_fewer_rows_are_asked(tmp_path: Path) -> None:
    sample = Sample(input_ids=[1] * 110, score_from=10, answer_from=10)
    rows = [replace(sample) for _ in range(20)]
    assert [len(ask.affordable(rows, size)) for size in (10**8, 5 * 10**9, 10**12)] == [10, 2, 1]
