"""Where metrics go besides the platform: trackers of experiments, each only when it is asked for.

Which server a tracker writes to is the administrator's (shared/settings.py); what a tracker keeps in files lies with
the trained model. What a job needs for each is in shared/tracking.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.fields import Message, shown
from shared.nearest import nearest
from shared.param import param
from shared.rules import rule
from shared.tongues import Text

SWANLAB, TENSORBOARD, WANDB, MLFLOW, TRACKIO = "swanlab", "tensorboard", "wandb", "mlflow", "trackio"
TRACKERS = (SWANLAB, TENSORBOARD, WANDB, MLFLOW, TRACKIO)
#: Nothing at all, and every one that needs nothing that is missing.
NONE, ALL = "none", "all"
#: Of a project's name, in every tracker.
MAX_PROJECT_CHARS = 100
#: Whose bots may be told of a training's end.
LARK_HOSTS = ("open.feishu.cn", "open.larksuite.com", "open.larkoffice.com")


def _lark_url(value: str) -> Message | None:
    """It holds a key of the bot, so that no message repeats it."""
    try:
        parts = urlsplit(value)
        is_one = parts.scheme == "https" and parts.netloc in LARK_HOSTS
    except ValueError:
        is_one = False
    return None if is_one else Message("must be an https address of {hosts}", hosts=", ".join(LARK_HOSTS))


def _project(value: str) -> Message | None:
    is_one = re.fullmatch(r"[0-9a-zA-Z_\-+.]+", value) and len(value) <= MAX_PROJECT_CHARS
    text = "is {value}: 1 to {most} of the letters a to z, digits, _ - + and ."
    return None if is_one else Message(text, value=shown(value), most=MAX_PROJECT_CHARS)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    report_to: list[str] = param(
        [NONE],
        "Trackers that get the metrics besides the platform: swanlab, tensorboard, wandb, mlflow, trackio; `all` takes "
        "those for which no key is missing, `none` none.",
        source="HF",
        advice="One tracker for all experiments: runs are compared by their curves.",
    )
    project: str = param(
        "huggingface", "Project of the run in wandb, mlflow and trackio.", source="HF", check=_project, since=3
    )
    use_swanlab: bool = param(False, "Send the metrics to SwanLab, as report_to swanlab does.", since=3)
    swanlab_project: str = param("llamafactory", "Project of the run in SwanLab.", check=_project, since=3)
    swanlab_workspace: str | None = param(
        None, "Workspace of SwanLab; left out, the key's own.", type=str, check=_project, since=3
    )
    swanlab_run_name: str | None = param(
        None, "Name of the run in SwanLab; left out, run_name.", type=str, kind="output", since=3
    )
    swanlab_mode: str = param(
        "cloud",
        "`cloud` needs a key; `local` and `offline` leave files with the model for `swanlab watch` and `swanlab sync`.",
        choices=("cloud", "local", "offline", "disabled"),
        since=3,
    )
    swanlab_api_key: str | None = param(
        None, "Key of SwanLab's cloud; left out, the server's, where it has one.", type=str, secret=True, since=3
    )
    swanlab_logdir: str | None = param(
        None, "Label only: SwanLab's files lie with the model.", type=str, kind="output", since=3
    )
    swanlab_lark_webhook_url: str | None = param(
        None,
        "Address of a bot of Lark (Feishu) that is told when the run ends.",
        type=str,
        secret=True,
        check=_lark_url,
        since=3,
    )
    swanlab_lark_secret: str | None = param(
        None, "Secret with which messages to that bot are signed.", type=str, secret=True, since=3
    )
    wandb_mode: str = param(
        "online",
        "`online` needs a key; `offline` leaves files with the model, for `wandb sync`.",
        choices=("online", "offline"),
        source="ours",
        since=3,
    )
    wandb_api_key: str | None = param(
        None,
        "Key of Weights & Biases; left out, the server's, where it has one.",
        type=str,
        secret=True,
        source="ours",
        since=3,
    )
    trackio_space_id: str | None = param(
        None,
        "Space of the Hugging Face Hub that shows the run (`owner/name`); needs hf_hub_token. Left out, the files of "
        "Trackio lie with the model.",
        type=str,
        source="HF",
        kind="output",
        since=3,
    )
    trackio_bucket_id: str | None = param(
        None, "Bucket of the Hub in which that Space keeps its data.", type=str, source="HF", kind="output", since=3
    )

    @rule("report_to", code="unsupported")
    def known_trackers(self) -> str | None:
        wrong = [name for name in self.report_to if name not in (*TRACKERS, NONE, ALL)]
        if not wrong:
            return None
        allowed = (*TRACKERS, ALL, NONE)
        near = nearest(wrong[0], allowed)
        hint = Text("; did you mean {close!r}?", close=near) if near else ""
        text = "names {named}: must be of {allowed}{hint}"
        return Text(text, named=", ".join(sorted(wrong)), allowed=", ".join(allowed), hint=hint)

    @property
    def named(self) -> tuple[str, ...]:
        """The trackers that are asked for; `all` is not among them."""
        asked = {*self.report_to} | ({SWANLAB} if self.use_swanlab else set())
        if self.swanlab_mode == "disabled":
            asked.discard(SWANLAB)
        return tuple(name for name in TRACKERS if name in asked)

    def is_asked(self, tracker: str) -> bool:
        asked = self.use_swanlab and tracker == SWANLAB
        return asked or bool({tracker, ALL} & {*self.report_to})

    @property
    def is_on(self) -> bool:
        return bool(self.named) or ALL in self.report_to
