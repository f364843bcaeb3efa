"""What is trained on: datasets, chat template, length, packing, validation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared import templates
from shared.fields import Numbers
from shared.param import MISSING, param
from shared.rules import rule
from shared.templates import Wording
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Data:
    dataset: list[str] = param(
        MISSING,
        "Datasets to train on: ids or names of uploaded datasets.",
        type=list,
        kind="dataset",
    )
    eval_dataset: list[str] = param([], "Datasets to validate on, instead of `val_size`.", kind="dataset")
    dataset_dir: str = param(
        "data",
        "Folder below an import root whose `dataset_info.json` describes datasets; names of the catalog come first.",
        advice="Leave it out for uploaded datasets. ONLINE: names that are not uploaded are Hub ids.",
        since=2,
    )
    mix_strategy: str = param(
        "concat",
        "How several datasets become one: one after another, or row by row in turn until the first (`under`) or the "
        "last (`over`, shorter ones repeat; `once`, they do not) is read.",
        choices=("concat", "interleave_under", "interleave_over", "interleave_once"),
        advice="concat: samples are shuffled anyway.",
        since=2,
    )
    interleave_probs: list[float] | None = param(
        None,
        "With an interleaving `mix_strategy`, the share of each dataset. Left out: in turn.",
        type=list,
        field_class=Numbers,
        since=2,
    )
    streaming: bool = param(
        False,
        "Prepare only as many rows as `max_steps` takes, drawn through a shuffling buffer.",
        advice="For datasets much larger than the training: the rest is neither read nor tokenized.",
        since=2,
    )
    buffer_size: int = param(
        16384,
        "Of `streaming`: rows among which the next one is drawn.",
        minimum=1,
        maximum=1_000_000,
        unit="rows",
        since=2,
    )
    eval_on_each_dataset: bool = param(
        False, "Report the validation loss of each `eval_dataset` by its name, beside the one over all.", since=2
    )
    template: str | None = param(
        None,
        "Chat template. Left out: the model's own.",
        type=str,
        kind="template",
        choices=templates.names(),
        check=templates.complaint,
        advice="Leave it out: a wrong one ruins the model silently.",
        picture="The form on which questions are handed in: on a strange form even a good pupil answers nonsense.",
    )
    cutoff_len: int = param(
        2048,
        "Longest sample; what is longer is cut.",
        minimum=8,
        maximum=4_194_304,
        unit="tokens",
        advice="From the P95 to P99 of the data's lengths; 7B on 24 GB: 4096.",
        picture="The length of the page: what does not fit on it is cut off and never read.",
    )
    train_on_prompt: bool = param(False, "Compute the loss on the prompt's tokens too.")
    split_special_tokens: bool = param(
        False,
        "Read special tokens within the data as ordinary text, so that no row can end a turn or begin another.",
        since=2,
        advice="true for data that strangers wrote.",
    )
    mask_history: bool = param(False, "Compute the loss on the last answer of a conversation only.")
    max_samples: int | None = param(
        None,
        "Rows taken of each dataset, for trying out.",
        type=int,
        minimum=1,
        picture="Reading only the first pages, to see whether the book is the right one.",
    )
    val_size: float = param(
        0.0,
        "Held out for validation: a share below 1, or a number of rows.",
        minimum=0.0,
        advice="0.05 to 0.1: without validation over-fitting is not seen.",
        picture="Exam questions kept out of the exercises: only they tell whether something was understood.",
    )
    packing: bool | None = param(
        None,
        "Pack several short samples into one sequence. Left out: on for `pt`, off otherwise.",
        type=bool,
        deprecated=("sft_packing",),
        advice="With many short samples prefer `neat_packing`: plain packing lets samples attend to each other.",
        picture="Several small parcels in one box instead of a box for each.",
    )
    neat_packing: bool = param(
        False,
        "Pack samples so that they do not see each other (turns packing on).",
        picture="Several small parcels in one box, with cardboard between them.",
    )
    default_system: str | None = param(
        None, "System prompt of conversations that have none, in training and when the model is served.", type=str
    )
    tool_format: str | None = param(
        None,
        "How tools and calls of them are written, instead of the named template's own way.",
        type=str,
        choices=templates.TOOL_FORMATS,
        advice="Leave it out: the template's own is what the model was taught.",
        since=2,
    )
    enable_thinking: bool | None = param(
        True,
        "For models that think. True: an answer without a thought learns an empty one. False: thoughts are taken out "
        "and the prompt gives an empty one. Null: thoughts stay, where there is none the prompt gives an empty one.",
        nullable=True,
        advice="False for data without thoughts, if the model shall answer at once.",
        since=2,
    )
    preserve_thinking: bool = param(
        False,
        "Keep the thoughts of earlier answers in what the model reads, where a template for models that think would "
        "leave them out.",
        since=2,
    )
    preprocessing_num_workers: int | None = param(
        None, "Processes that tokenize. Left out: one.", type=int, minimum=1, maximum=1024
    )
    overwrite_cache: bool = param(False, "Tokenize again even if the same data was tokenized before.")
    disable_shuffling: bool = param(False, "Take the samples in the order of the files.")

    @rule("interleave_probs")
    def shares_are_of_interleaved_datasets(self) -> str | None:
        wrong = bool(self.interleave_probs) and self.mix_strategy == "concat"
        return "needs a mix_strategy that interleaves: concat takes every row of every dataset" if wrong else None

    @rule("interleave_probs")
    def one_share_each(self) -> str | None:
        shares = self.interleave_probs
        if shares is None:
            return None
        if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            return Text(
                "is {shares}: must be shares above 0 that add up to 1, a dataset that is never read must be left out",
                shares=shares,
            )
        for field, names in (("dataset", self.dataset), ("eval_dataset", self.eval_dataset)):
            mixed = names and not (field == "eval_dataset" and self.eval_on_each_dataset)
            if mixed and len(names) != len(shares):
                text = "has {given} shares for {count} of {field}: give one for each"
                return Text(text, given=len(shares), count=len(names), field=field)
        return None

    @rule("streaming")
    def a_stream_is_cut_by_steps(self) -> str | None:
        both = self.streaming and self.max_samples is not None
        return "cannot be given together with max_samples: max_steps says how many rows are read" if both else None

    @rule("val_size")
    def no_share_of_a_stream(self) -> str | None:
        wrong = self.streaming and 0 < self.val_size < 1
        return "is a share, but a stream has no size: give a number of rows" if wrong else None

    @rule("eval_on_each_dataset")
    def several_to_validate_on(self) -> str | None:
        wrong = self.eval_on_each_dataset and not self.eval_dataset
        return "needs eval_dataset: rows held out by val_size are one set" if wrong else None

    @rule("val_size")
    def one_source_of_validation(self) -> str | None:
        both = self.val_size > 0 and self.eval_dataset
        return "cannot be given together with eval_dataset: both say what to validate on" if both else None

    @rule("val_size")
    def whole_rows(self) -> str | None:
        broken = self.val_size >= 1 and not self.val_size.is_integer()
        text = "is {given}: must be a share below 1 or a whole number of rows"
        return Text(text, given=self.val_size) if broken else None

    @rule("mask_history")
    def one_loss_mask(self) -> str | None:
        both = self.mask_history and self.train_on_prompt
        return "contradicts train_on_prompt: one leaves out earlier turns, the other takes all" if both else None

    @rule("train_on_prompt")
    def a_prompt_is_learned_where_answers_have_ends(self) -> str | None:
        name = templates.settled(self.template)
        wrong = self.train_on_prompt and name is not None and templates.get(name).ends_once
        return (
            Text("cannot be true with template {name}, which ends answers in the loss alone", name=name)
            if wrong
            else None
        )

    @rule("tool_format")
    def a_tool_format_has_a_template(self) -> str | None:
        missing = self.tool_format is not None and templates.settled(self.template) is None
        return (
            "changes a named template: name one in template, the model's own writes tools itself" if missing else None
        )

    @rule("neat_packing")
    def packing_is_not_denied(self) -> str | None:
        denied = self.neat_packing and self.packing is False
        return "is a kind of packing: leave packing out, or set it to true" if denied else None

    @rule("dataset", code="invalid_value")
    def some_dataset(self) -> str | None:
        return "is empty: name at least one dataset" if self.dataset == [] else None

    @property
    def wording(self) -> Wording:
        """What is said of how the template writes."""
        return Wording(
            tool_format=self.tool_format,
            default_system=self.default_system,
            enable_thinking=self.enable_thinking,
            preserve_thinking=self.preserve_thinking,
        )

    def resolved(self, stage: str) -> Data:
        """Packing is on for pt and with neat_packing; a template that stands for the model's own is none."""
        packing = stage == "pt" if self.packing is None else self.packing
        return replace(self, packing=packing or self.neat_packing, template=templates.settled(self.template))
