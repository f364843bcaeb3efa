"""What trackers need: keys of the administrator or of the job, in the child's environment and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema, tracking
from shared.settings import Settings
from shared.spec import TrainSpec

KEYS = Settings(
    swanlab_api_key="s-key", wandb_api_key="w-key", wandb_base_url="https://wandb.example",
    mlflow_tracking_uri="https://mlflow.example", mlflow_tracking_token="m-token",
)  # fmt: skip


def spec(**given: Any) -> TrainSpec:
    return schema.load(TrainSpec, {"model": "tiny", "dataset": "facts", **given})


@pytest.mark.parametrize(
    ("given", "trackers"),
    [
        ({}, []),
        ({"report_to": "none"}, []),
        ({"use_swanlab": True, "report_to": ["swanlab", "tensorboard"]}, ["swanlab", "tensorboard"]),
        ({"use_swanlab": True, "swanlab_mode": "disabled"}, []),
        ({"report_to": "all"}, ["tensorboard", "mlflow", "trackio"]),
        ({"report_to": "all", "wandb_mode": "offline", "swanlab_api_key": "k"},
         ["swanlab", "tensorboard", "wandb", "mlflow", "trackio"]),
    ],
)  # fmt: skip
def test_trackers_are_those_asked_for_and_of_all_those_that_lack_nothing(
    given: dict[str, Any], trackers: list[str]
) -> None:
    made = spec(**given)
    assert tracking.chosen(Settings(), made, schema.secrets(made)) == trackers


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"use_swanlab": True}, "swanlab_api_key"),
        ({"report_to": "wandb"}, "wandb_api_key"),
        ({"report_to": "trackio", "trackio_space_id": "me/space"}, "hf_hub_token"),
        ({"use_swanlab": True, "swanlab_api_key": "k"}, None),
        ({"use_swanlab": True, "swanlab_mode": "offline"}, None),
        ({"report_to": ["mlflow", "tensorboard", "trackio"]}, None),
    ],
)
def test_a_key_that_nobody_gives_is_a_complaint_that_names_it(given: dict[str, Any], field: str | None) -> None:
    made = spec(**given)
    found = list(tracking.missing(Settings(), made, schema.secrets(made)))
    assert [complaint.field for complaint in found] == ([field] if field else [])
    if field != "hf_hub_token":
        assert list(tracking.missing(KEYS, made, schema.secrets(made))) == []


def test_only_what_a_job_asks_for_reaches_its_environment() -> None:
    def given(trackers: list[str], **fields: Any) -> dict[str, str]:
        return tracking.environment(KEYS, spec(report_to=trackers, **fields), trackers)

    assert given(["tensorboard", "trackio"]) == {}
    assert given(["wandb"], wandb_mode="offline") == {}
    assert given(["wandb"]) == {"WANDB_API_KEY": "w-key", "WANDB_BASE_URL": "https://wandb.example"}
    assert given(["mlflow"]) == {
        "MLFLOW_TRACKING_URI": "https://mlflow.example",
        "MLFLOW_TRACKING_TOKEN": "m-token",
    }


def test_keys_stand_in_no_text_of_settings_or_specs() -> None:
    made = spec(use_swanlab=True, swanlab_api_key="sealed", swanlab_lark_secret="sealed", wandb_api_key="sealed",
                swanlab_lark_webhook_url="https://open.feishu.cn/open-apis/bot/v2/hook/sealed")  # fmt: skip
    assert "sealed" not in str(schema.to_wire(made))
    assert not any(key in repr(KEYS) for key in ("s-key", "w-key", "m-token", "mlflow.example"))
