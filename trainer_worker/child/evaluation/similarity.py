"""How near the model's answers come to those of the data: BLEU and ROUGE by sacrebleu and rouge-score, exact match.

`bleu` is sacrebleu's corpus BLEU (0 to 100), its error from 1000 resamples of the rows; `rouge1`, `rouge2` and `rougeL`
are the means of rouge-score's F-measure (0 to 1); `exact_match` is the share of answers that are equal but for space at
their ends. Text without spaces between words is compared by characters.

Under LF's names, from 0 to 100: `predict_bleu-4`, the mean of nltk's sentence BLEU over characters with smoothing
method 3, as LF computes it; `predict_rouge-1`, `-2` and `-l` are the same ROUGE as above, where LF
splits words with jieba.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared.statistics import mean, told

Line = Mapping[str, Any]

HAN = "\\u3400-\\u9fff\\uf900-\\ufaff"
#: Japanese kana and Thai, which have no spaces between words either.
OTHERS = "\\u3040-\\u30ff\\u0e00-\\u0e7f"
UNSPACED = re.compile(f"[{HAN}{OTHERS}]")
TOKEN = re.compile(f"[{HAN}{OTHERS}]|[^\\W{HAN}{OTHERS}]+")
#: From this share of letters on a text counts as one of them.
SHARE = 0.1
ROUGES = {"rouge1": "predict_rouge-1", "rouge2": "predict_rouge-2", "rougeL": "predict_rouge-l"}
NUM_RESAMPLES = 1000
#: Standard errors in half of a 95 % interval.
HALF_INTERVAL = 1.96


def measure(lines: Sequence[Line], metrics: Sequence[str]) -> dict[str, float]:
    """Of lines with `predict` and `label`."""
    found: dict[str, float] = {}
    if "bleu" in metrics:
        found |= bleu(lines) | told(**{"predict_bleu-4": mean([100 * sentence_bleu(line) for line in lines])})
    if "rouge" in metrics:
        found |= rouge(lines)
    if "exact_match" in metrics:
        found |= told(exact_match=mean([float(_text(line, "predict") == _text(line, "label")) for line in lines]))
    return found


def bleu(lines: Sequence[Line]) -> dict[str, float]:
    from sacrebleu.metrics import BLEU

    predictions, labels = ([_text(line, name) for line in lines] for name in ("predict", "label"))
    score: Any = BLEU(tokenize=bleu_tokenizer(labels)).corpus_score(
        predictions, [labels], n_bootstrap=NUM_RESAMPLES if len(lines) > 1 else 1
    )
    if len(lines) < 2:
        return {"bleu": score.score}
    return {"bleu": score.score, "bleu_stderr": score._ci / HALF_INTERVAL}


def bleu_tokenizer(labels: Sequence[str]) -> str:
    """sacrebleu's name of it: its own for Chinese, characters for others without spaces, else the standard one."""
    letters = "".join(labels)
    if not is_unspaced(letters):
        return "13a"
    return "char" if len(re.findall(f"[{OTHERS}]", letters)) > SHARE * len(letters) else "zh"


def rouge(lines: Sequence[Line]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    tokenizer = None if is_ascii("".join(_text(line, "label") for line in lines)) else Characters()
    scorer = RougeScorer(list(ROUGES), tokenizer=tokenizer)
    scores = [scorer.score(_text(line, "label"), _text(line, "predict")) for line in lines]
    own = told(**{name: mean([score[name].fmeasure for score in scores]) for name in ROUGES})
    return own | {theirs: 100 * own[name] for name, theirs in ROUGES.items()}


def sentence_bleu(line: Line) -> float:
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as score

    prediction, label = list(line["predict"]), list(line["label"])
    return float(score([label], prediction, smoothing_function=SmoothingFunction().method3)) if prediction else 0.0


class Characters:
    """What rouge-score takes as a tokenizer: characters where words have no spaces between, else words."""

    def tokenize(self, text: str) -> list[str]:
        return TOKEN.findall(text.lower())


def is_unspaced(text: str) -> bool:
    return len(UNSPACED.findall(text)) > SHARE * len(text)


def is_ascii(text: str) -> bool:
    """rouge-score's own tokenizer knows no other letters: it would drop them."""
    letters = [char for char in text if char.isalpha()]
    return sum(not char.isascii() for char in letters) <= SHARE * len(letters)


def _text(line: Line, name: str) -> str:
    return str(line[name]).strip()
