"""What each tracker of a training needs, and what its child is told: keys and addresses in its environment alone.

Keys are the administrator's (shared/settings.py) or secrets of the job; addresses of servers are the administrator's
only. Pure functions of settings and spec; trackers themselves run in trainer_worker/child/tracking.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from shared.errors import Complaint
from shared.settings import Settings
from shared.spec import TrainSpec
from shared.spec.tracking import ALL, MLFLOW, SWANLAB, TENSORBOARD, TRACKERS, TRACKIO, WANDB
from shared.tongues import Text

#: Environment variable -> setting, of each tracker; a job's own secret of the same variable takes its place.
VARIABLES: Mapping[str, Mapping[str, str]] = {
    SWANLAB: {"SWANLAB_API_KEY": "swanlab_api_key", "SWANLAB_API_HOST": "swanlab_host"},
    TENSORBOARD: {},
    WANDB: {"WANDB_API_KEY": "wandb_api_key", "WANDB_BASE_URL": "wandb_base_url"},
    MLFLOW: {"MLFLOW_TRACKING_URI": "mlflow_tracking_uri", "MLFLOW_TRACKING_TOKEN": "mlflow_tracking_token"},
    TRACKIO: {},
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A secret without which a tracker cannot reach its server."""

    #: Wire name of the job's own.
    field: str
    #: Of the administrator; empty: there is none.
    setting: str
    #: What to do without.
    instead: str


KEYS: Mapping[str, Key] = {
    SWANLAB: Key(field="swanlab_api_key", setting="swanlab_api_key", instead="set swanlab_mode to local or offline"),
    WANDB: Key(field="wandb_api_key", setting="wandb_api_key", instead="set wandb_mode to offline"),
    TRACKIO: Key(field="hf_hub_token", setting="", instead="leave trackio_space_id out"),
}


def is_remote(tracker: str, settings: Settings, spec: TrainSpec) -> bool:
    """Whether it sends what it gets to a server, instead of leaving files with the model."""
    given = spec.tracking
    return {
        SWANLAB: given.swanlab_mode == "cloud",
        TENSORBOARD: False,
        WANDB: given.wandb_mode == "online",
        MLFLOW: bool(settings.mlflow_tracking_uri),
        TRACKIO: given.trackio_space_id is not None,
    }[tracker]


def missing(settings: Settings, spec: TrainSpec, secrets: Collection[str]) -> Iterator[Complaint]:
    """One complaint for each key that neither the job nor the administrator gives; `secrets` are the job's by name."""
    for tracker in spec.tracking.named:
        if (key := _lacks(tracker, settings, spec, secrets)) is not None:
            text = "is missing: report_to {tracker} needs it and this server has none; give it, or {instead}"
            message = Text(text, tracker=tracker, instead=Text(key.instead))
            yield Complaint(field=key.field, message=message, code="key_not_found")


def chosen(settings: Settings, spec: TrainSpec, secrets: Collection[str]) -> list[str]:
    """The trackers of a job; of `all` those that lack nothing."""
    if ALL not in spec.tracking.report_to:
        return list(spec.tracking.named)
    return [name for name in TRACKERS if name in spec.tracking.named or not _lacks(name, settings, spec, secrets)]


def environment(settings: Settings, spec: TrainSpec, trackers: Collection[str]) -> dict[str, str]:
    """What the administrator gives a job's trackers; nothing to those that only write files."""
    remote = (name for name in trackers if is_remote(name, settings, spec))
    given = {variable: str(getattr(settings, own)) for name in remote for variable, own in VARIABLES[name].items()}
    return {variable: value for variable, value in given.items() if value}


def _lacks(tracker: str, settings: Settings, spec: TrainSpec, secrets: Collection[str]) -> Key | None:
    key = KEYS.get(tracker)
    if key is None or not is_remote(tracker, settings, spec) or key.field in secrets:
        return None
    return None if key.setting and getattr(settings, key.setting) else key
