"""Proximal policy optimization: answers that the model draws are scored, and good ones made likelier."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from trainer_worker.child import datasets, ends, setup, tokenizer, training
from trainer_worker.child.context import Context
from trainer_worker.child.datasets import Parts
from trainer_worker.child.ppo import reward, rollout
from trainer_worker.child.ppo.objective import Carried
from trainer_worker.child.ppo.trainer import Actors, PpoTrainer
from trainer_worker.child.setup import Made


def run(context: Context) -> dict[str, Any]:
    """Train and publish; the data of the outcome `done`. Raises Stopped."""
    parts = with_answers(context, datasets.load(context))
    context.emit("message", f"Loading {context.run['base_name']} and its reward model")
    made = setup.make(context, parts, padded=True, before=partial(reward.load, context))
    rounds(context, made)
    actors = make_actors(context, made)
    width = made.model.config.get_text_config().hidden_size
    carried = Carried(width, context.device, context.spec.plugged["ppo"].ppo_target)
    prompts = rollout.Prompts(pad_id=int(actors.drawing.pad_token_id))
    ingredients = training.ingredients(made, parts) | {"data_collator": prompts}
    trainer = PpoTrainer(context, carried, actors=actors, **ingredients)
    # Only now: the Trainer has moved the weights that are shared.
    actors.to(context.device)
    # Each process draws its own numbers, also for like prompts.
    torch.manual_seed(context.spec.train.seed + context.rank)
    return training.follow(context, trainer)


def with_answers(context: Context, parts: Parts) -> Parts:
    """The largest batch holds an answer to each prompt."""
    spec = context.spec
    num_answered = spec.train.per_device_train_batch_size * spec.drawing.max_new_tokens
    return replace(parts, most_tokens=parts.most_tokens + num_answered, most_learned=num_answered)


def rounds(context: Context, made: Made) -> None:
    """A batch of the Trainer is a whole round of answers; how it is parted is ours."""
    buffered = context.spec.plugged["ppo"].ppo_buffer_size * context.spec.train.gradient_accumulation_steps
    made.arguments.per_device_train_batch_size *= buffered
    made.arguments.gradient_accumulation_steps = 1
    # The order of the prompts is that of all processes, also when each draws numbers of its own.
    if made.arguments.data_seed is None:
        made.arguments.data_seed = context.spec.train.seed


def make_actors(context: Context, made: Made) -> Actors:
    words = tokenizer.load(context.run["model_path"], context.spec)
    end_ids = ends.end_ids(words, made.model.generation_config, context.spec)
    padding = words.pad_token_id if words.pad_token_id is not None else words.eos_token_id
    return Actors(
        reference=as_it_is(made.model),
        scorer=made.beside,
        drawing=rollout.settings(context.spec, end_ids, int(padding)),
        autocast=made.autocast,
    )


def as_it_is(trained: torch.nn.Module) -> torch.nn.Module:
    """A copy of what will be trained, around the same weights where these stay as they are: for an adapter a copy of
    the adapter, for full training of the whole model."""
    shared: dict[int, Any] = {id(weight): weight for weight in trained.parameters() if not weight.requires_grad}
    return copy.deepcopy(trained, shared).eval().requires_grad_(False)
