"""Does each training learn, and does it use what it was given?"""

from __future__ import annotations

from deploy.grafana.panels import shown
from deploy.grafana.panels.board import Board, Choice, Panel, Query, Row, quantiles

OF = '{job_id=~"$job", project_id=~"$project"}'


def of_job(name: str, legend: str = "{{job_id}}") -> tuple[Query, ...]:
    return (Query(expr=f"tunesmith_training_{name}{OF}", legend=legend),)


NOW = Row(
    title="Trainings that run",
    panels=(
        Panel(
            title="Progress",
            description="Share of its steps that each training has done.",
            queries=of_job("progress_ratio"),
            unit="percentunit",
            width=12,
            lowest=0,
            highest=1,
        ),
        Panel(
            title="Step",
            description="Optimizer steps done. A line that stands still while its job runs is a training that hangs.",
            queries=of_job("step"),
            width=6,
        ),
        Panel(
            title="Trainings at once",
            description="How many report now.",
            queries=(Query(expr="count(tunesmith_training_step) or vector(0)", legend="running"),),
            width=6,
            lowest=0,
            decimals=0,
        ),
    ),
)

LEARNS = Row(
    title="Does it learn?",
    panels=(
        Panel(
            title="Loss",
            description="Training and validation. Training down and validation up: it overfits; neither down: "
            "learning rate or data.",
            queries=(*of_job("loss"), *of_job("eval_loss", "{{job_id}} validation")),
            width=12,
        ),
        Panel(
            title="Norm of the gradient",
            description="Spikes before the loss explodes; a lower learning_rate, more warmup or max_grad_norm helps.",
            queries=of_job("grad_norm"),
            width=6,
            logarithmic=True,
        ),
        Panel(
            title="Learning rate",
            description="As the scheduler gives it.",
            queries=of_job("learning_rate"),
            width=6,
            unit="sci",
        ),
    ),
)

SPEED = Row(
    title="Is it fast?",
    panels=(
        Panel(
            title="Throughput",
            description="Tokens trained per second, padding not counted. A fall: what else uses the devices, the "
            "storage of the data, clocks lowered for heat.",
            queries=of_job("tokens_per_second"),
            unit="suffix: tok/s",
        ),
        Panel(
            title="Model FLOPs utilisation (MFU)",
            description="Share of the devices' peak arithmetic that the training uses. 0.3 to 0.5 is good on GPUs; far "
            "less: larger micro-batches, packing, less checkpointing. Only where the peak of the device is known.",
            queries=of_job("mfu"),
            unit="percentunit",
            lowest=0,
        ),
        Panel(
            title="Padding",
            description="Share of the computed tokens that are padding. Above 0.3: group_by_length or packing.",
            queries=of_job("padding_share"),
            unit="percentunit",
            lowest=0,
            highest=1,
            warn=0.3,
            bad=0.6,
        ),
        Panel(
            title="Samples",
            description="Samples trained per second.",
            queries=of_job("samples_per_second"),
            unit="suffix: /s",
        ),
        Panel(
            title="Peak memory of a device",
            description="Largest so far of the devices of a job.",
            queries=of_job("peak_memory_bytes"),
            unit="bytes",
            lowest=0,
        ),
        Panel(
            title="Tokens trained in total",
            description="Per minute, by worker, whichever jobs they came from.",
            queries=(
                Query(
                    expr="60 * sum by (instance) (rate(tunesmith_training_tokens_total[$__rate_interval]))",
                    legend="{{instance}}",
                ),
            ),
            unit="suffix: tok/min",
        ),
    ),
)

SAFETY = Row(
    title="Is it safe?",
    panels=(
        Panel(
            title="Age of the newest checkpoint",
            description="What a lost worker would cost each training. Long: save_steps of the job, or checkpoints that "
            "fail to be published.",
            queries=(
                Query(
                    expr=f"time() - tunesmith_training_checkpoint_timestamp_seconds{OF}",
                    legend="{{job_id}}",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Time to publish a checkpoint",
            description="Files sealed and stored. The pod's grace period must be longer.",
            queries=quantiles("tunesmith_checkpoint_publish_duration_seconds", over="1h"),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Checkpoints and losses that are no number",
            description="In the last hour. A loss that is no number ends the job with code diverged.",
            queries=(
                Query(
                    expr="sum by (outcome) (increase(tunesmith_checkpoints_total[1h]))",
                    legend="checkpoints {{outcome}}",
                ),
                Query(expr="sum(increase(tunesmith_training_nonfinite_total[1h]))", legend="not a number"),
            ),
            lowest=0,
        ),
    ),
)

DEVICES = Row(
    title="GPUs",
    panels=(
        shown.gpu_utilization(),
        shown.gpu_memory(),
        shown.devices(),
        Panel(
            title="GPU temperature",
            description="Above 85 most GPUs lower their clocks.",
            queries=(Query(expr="max by (device) (tunesmith_gpu_temperature_celsius)", legend="{{device}}"),),
            unit="celsius",
            width=12,
            warn=80,
            bad=87,
        ),
        Panel(
            title="GPU power",
            description="What each GPU draws. Far below its limit while it is busy: it waits for memory or data.",
            queries=(Query(expr="max by (device) (tunesmith_gpu_power_watts)", legend="{{device}}"),),
            unit="watt",
            width=12,
            lowest=0,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-training",
    title="Tunesmith / Training",
    description="Does each training learn, and does it use what it was given?",
    rows=(NOW, LEARNS, SPEED, SAFETY, DEVICES),
    choices=(
        Choice(name="project", label="Project", query="label_values(tunesmith_training_step, project_id)"),
        Choice(name="job", label="Job", query="label_values(tunesmith_training_step, job_id)"),
    ),
)
