"""The Helm chart: what it makes of each file of values is valid, restricted, and speaks of things that exist."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.admin.services import WITH_METRICS, services
from gateway.cli import parser
from shared.settings import Settings
from tests.unit.charted import CHART, ROOT, VALUES, containers, helm, needs_helm, pods, read, run

VERSIONS = ("1.34", "1.36", "1.37")
#: Kinds of operators, whose schemas come with them.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "RayCluster"}
SETTINGS = {field.name for field in fields(Settings)}
RUNBOOK = '{{ or $externalLabels.tunesmith_runbook "http://127.0.0.1:8000/runbook" }}'
WORKERS = {"trainer", "export", "inference", "generate"}
#: What decides which work a Celery process does.
WORK = re.compile(r"celery|worker|--(app|beat|queues|concurrency|pool)")
#: What the chart sets itself: where things lie and listen.
MANAGED = {
    *("home", "database_url", "broker_url", "storage_url", "run_dir", "import_roots", "host", "port", "replica_host"),
    *(
        "node_address",
        "worker_id",
        "worker_labels",
        "devices",
        "metrics_port",
        "metrics_host",
        "ray_address",
        "finish_seconds",
    ),
}

pytestmark = needs_helm


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The manifests of each file of values, in a file of the same name."""
    folder = tmp_path_factory.mktemp("manifests")
    for values in VALUES:
        done = helm("--values", values)
        assert done.returncode == 0, done.stderr
        (folder / values.name).write_text(done.stdout)
    return {values.stem: folder / values.name for values in VALUES}


@pytest.fixture(scope="module")
def manifests(rendered: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    return {name: read(path.read_text()) for name, path in rendered.items()}


@pytest.fixture(scope="module")
def everything(manifests: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [found for of_values in manifests.values() for found in of_values]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_chart_passes_helms_linter(values: Path) -> None:
    done = run("helm", "lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_in_three_versions_of_kubernetes(version: str, rendered: dict[str, Path]) -> None:
    done = run("kubernetes-validate", "--strict", "-k", version, *rendered.values())
    assert done.returncode == 0, done.stdout
    unknown = set(re.findall(r"Couldn't find schema for kind (\w+)", done.stdout + done.stderr))
    assert unknown <= FOREIGN


def test_checkov_has_nothing_to_say_but_what_is_skipped_with_a_reason(rendered: dict[str, Path]) -> None:
    config = ROOT / "deploy" / "helm" / "checkov.yaml"
    files = [argument for path in rendered.values() for argument in ("--file", str(path))]
    done = run("checkov", "--config-file", config, *files, "--output", "json")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads(done.stdout)["summary"]["passed"] > 1000


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("workers.trainer.gpus=-1", "workers.trainer.gpus"),
        ("settings.leese_seconds=3", "leese_seconds"),
        ("settings.pause_timeout_seconds=soon", "settings.pause_timeout_seconds"),
        ("images.gateway.tag=latest", "images.gateway.tag"),
        ("images.gateway.digest=sha256:1", "images.gateway.digest"),
        ("storage.kind=nfs", "storage.kind"),
        ("storage.kind=s3", "storage.s3.url"),
        ("postgres.enabled=false", "secrets.existingSecret"),
        ("workers.trainer.autoscaling.kind=keda", "metrics.prometheusAddress"),
        ("workers.inference.autoscaling.kind=hpa", "workers.inference.autoscaling.query"),
        ("workers.trainer.ray=true", "workers.trainer.ray"),
        ("workers.trainer.servise=trainer", "servise"),
        ("gateway.replicas=two", "gateway.replicas"),
        ("backup.enabled=true", "backup.s3.url"),
        ("backup.schedule=daily", "backup.schedule"),
        ("workers.gateway.service=trainer", "workers.gateway: a pool cannot have the name"),
        ("workers.beat.service=trainer", "workers.beat: a pool cannot have the name"),
        ("workers.redis.service=trainer", "workers.redis: a pool cannot have the name"),
        ("workers.postgres.service=trainer", "workers.postgres: a pool cannot have the name"),
        ("workers.ray.service=trainer", "workers.ray: a pool cannot have the name"),
        ("workers.trainer.image=trainer-cuda", "workers.trainer.image is trainer-cuda"),
        ("settings.keeper_seconds=40", "settings.keeper_seconds is 40"),
        ("settings.lease_seconds=20", "settings.lease_seconds (20)"),
        ("gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=9", "gateway.autoscaling.minReplicas is 9"),
        ("workers.trainer.autoscaling.kind=hpa,workers.trainer.autoscaling.minReplicas=9", "minReplicas is 9: at most"),
        ("redis.maxMemory=1gb", "redis.maxMemory is 1gb"),
        ("redis.maxMemory=384mb,redis.resources.limits.memory=300M", "redis.resources.limits.memory (300M)"),
        ("images.trainer.tag=main", "images.trainer.tag is main"),
        ("postgres.image.tag=bookworm", "postgres.image.tag is bookworm"),
        ("ingress.enabled=true", "ingress.host"),
        ("ingress.enabled=true,ingress.host=a b", "ingress.host"),
        ("secrets.settings={wandb_api_key}", "secrets.existingSecret must name it"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(wrong: str, named: str) -> None:
    done = helm("--set", wrong)
    assert done.returncode != 0
    assert named in done.stderr


def test_values_beside_those_that_cannot_work_are_taken() -> None:
    digest = "sha256:" + "0" * 64
    for right in (
        "workers.redis-pool.service=trainer",
        "settings.keeper_seconds=40,settings.lease_seconds=41",
        "redis.maxMemory=700mb,redis.resources.limits.memory=0.7Gi",
        f"images.trainer.tag=main,images.trainer.digest={digest}",
        "images.trainer.tag=3f9c2ab",
        "ingress.enabled=true,ingress.host=*.example.com",
    ):
        assert helm("--set", right).stderr.count("Error") == 0, right


def test_the_lease_and_the_keeper_are_compared_as_the_settings_compare_them() -> None:
    text = (CHART / "templates" / "_check.tpl").read_text()
    for name in ("keeper_seconds", "lease_seconds"):
        assert f'dig "{name}" {getattr(Settings(), name)} .Values.settings' in text


def test_the_schema_takes_every_setting_that_the_chart_does_not_set_itself() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    given = set(schema["settings"]["properties"])
    secret = set(schema["secrets"]["properties"]["settings"]["items"]["enum"])
    assert given | secret | MANAGED == SETTINGS, "values.schema.json: settings, or secrets.settings"
    assert not given & secret


def test_every_variable_of_ours_is_a_setting(everything: list[dict[str, Any]]) -> None:
    names = {variable["name"] for _, one in containers(everything) for variable in one.get("env", ())}
    ours = {name for name in names if name.startswith("TUNESMITH_")}
    assert ours
    assert {name.removeprefix("TUNESMITH_").removesuffix("_FILE").lower() for name in ours} <= SETTINGS


def test_settings_arrive_as_they_were_given() -> None:
    done = helm("--set", "settings.max_upload_bytes=2147483648", "--set", "settings.trust_remote_code={a/b,c/d}")
    assert '{name: TUNESMITH_MAX_UPLOAD_BYTES, value: "2147483648"}' in done.stdout
    assert '{name: TUNESMITH_TRUST_REMOTE_CODE, value: "a/b,c/d"}' in done.stdout


def test_secrets_are_files_and_never_variables(everything: list[dict[str, Any]]) -> None:
    for name, one in containers(everything):
        for variable in one.get("env", ()):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), (name, variable)
            assert not re.search(r"postgresql.*:.*@|redis://|ts-\w{20}", variable.get("value", "")), (name, variable)


def test_every_image_is_pinned(everything: list[dict[str, Any]]) -> None:
    for name, one in containers(everything):
        assert re.search(r":[\w.-]*\d[\w.-]*$|@sha256:[0-9a-f]{64}$", one["image"]), (name, one["image"])


def test_pods_are_restricted_and_have_no_token(everything: list[dict[str, Any]]) -> None:
    for name, pod in pods(everything):
        assert pod["automountServiceAccountToken"] is False, name
        # A Service named tunesmith would set TUNESMITH_PORT to an URL.
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, one in containers(everything):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert one["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_probes_ask_for_routes_that_exist(everything: list[dict[str, Any]]) -> None:
    routes = set(re.findall(r'@blueprint.route\("(/\w+)"', (ROOT / "gateway" / "health.py").read_text()))
    asked = {
        probe["httpGet"]["path"]
        for _, one in containers(everything)
        for kind, probe in one.items()
        if kind.endswith("Probe") and "httpGet" in probe
    }
    assert asked == {"/healthz", "/readyz", "/metrics"}
    assert asked <= routes


def test_a_worker_has_longer_to_end_than_its_checkpoint_takes(everything: list[dict[str, Any]]) -> None:
    settings = Settings()
    needed = max(service.grace_seconds for service in services(settings, dict.fromkeys(WITH_METRICS, 0)))
    ours = [pod for name, pod in pods(everything) if any(one["name"] in WORKERS for one in pod["containers"])]
    assert len(ours) >= len(VALUES) * 4
    assert all(pod["terminationGracePeriodSeconds"] >= needed for pod in ours)
    longer = helm("--set", "settings.pause_timeout_seconds=1800,workers.export.finishSeconds=3600").stdout
    assert longer.count("terminationGracePeriodSeconds: 1860") == 3
    assert longer.count("terminationGracePeriodSeconds: 5460") == 1
    assert longer.count('{name: TUNESMITH_FINISH_SECONDS, value: "3600"}') == 1


def test_redis_and_postgresql_are_those_of_compose(manifests: dict[str, list[dict[str, Any]]]) -> None:
    composed = YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]
    ours = {one["name"]: one["image"] for _, one in containers(manifests["kind"])}
    for name in ("redis", "postgres", "gateway", "trainer", "export", "inference"):
        assert ours[name] == composed[name]["image"]


def test_workers_and_beat_run_what_compose_runs(manifests: dict[str, list[dict[str, Any]]]) -> None:
    composed = YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]
    ours = {one["name"]: one.get("command") for _, one in containers(manifests["kind"])}
    for name in ("beat", "generate"):
        assert [word for word in ours[name] if WORK.match(word)] == [
            w for w in composed[name]["command"] if WORK.match(w)
        ]
    # The others run what their image says.
    assert all(name not in composed or "command" not in composed[name] for name in ("gateway", "trainer", "export"))
    assert all(ours[name] is None for name in ("gateway", "trainer", "export", "inference"))


def test_rules_and_dashboards_are_those_of_the_other_deployments(manifests: dict[str, list[dict[str, Any]]]) -> None:
    made = [found["spec"]["groups"] for found in manifests["many-nodes"] if found["kind"] == "PrometheusRule"]
    # Alerts lead to the Ingress: external labels are those of whoever runs Prometheus.
    written = [
        YAML(typ="safe").load(path.read_text().replace(RUNBOOK, "https://tunesmith.example.com/runbook"))["groups"]
        for path in (CHART / "files/prometheus").glob("rules*.yml")
    ]
    assert made == written
    boards = [found for found in manifests["many-nodes"] if "-dashboard-" in found["metadata"]["name"]]
    texts = {name: json.loads(text) for board in boards for name, text in board["data"].items()}
    paths = (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
    assert texts == {path.name: json.loads(path.read_text()) for path in paths}


def test_a_backup_by_the_clock_reaches_the_artifacts_and_its_place(manifests: dict[str, list[dict[str, Any]]]) -> None:
    for values, place in (("many-nodes", "s3://backups/tunesmith"), ("one-gpu-node", "/backup")):
        [spec] = [found["spec"] for found in manifests[values] if found["kind"] == "CronJob"]
        pod = spec["jobTemplate"]["spec"]["template"]
        [one] = pod["spec"]["containers"]
        parsed = parser(one["command"][1:]).parse_args(one["command"][1:])
        assert (parsed.place, parsed.keep, parsed.without_secrets) == (place, 7, False)
        # What docs/kubernetes.md makes of it.
        check = parser(one["command"][1:]).parse_args([*one["command"][1:3], "--check"])
        assert check.check is not None and one["command"][2] == place
        mounted = {mount["mountPath"] for mount in one["volumeMounts"]}
        assert {"/shared", "/etc/tunesmith/secrets"} < mounted and ("/backup" in mounted) == (place == "/backup")
        env = {variable["name"]: variable["value"] for variable in one["env"]}
        assert (env.get("AWS_SHARED_CREDENTIALS_FILE") == "/etc/tunesmith/backup/credentials") == (place[0] == "s")
        # The ledger takes connections of the release's pods, and no two backups are written at once.
        assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "backup"
        assert spec["concurrencyPolicy"] == "Forbid"
    other = ["backup.enabled=true", "backup.s3.url=s3://b/f", "backup.s3.endpoint=https://x", "storage.kind=s3"]
    done = helm("--set", ",".join([*other, "storage.s3.url=s3://a/f"]))
    assert done.returncode != 0 and "those of storage.s3" in done.stderr


def test_helm_test_asks_the_gateway_by_its_service(manifests: dict[str, list[dict[str, Any]]]) -> None:
    for found in manifests.values():
        [pod] = [one for one in found if one["kind"] == "Pod"]
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        [service] = [one for one in found if one["kind"] == "Service" and one["metadata"]["name"] == "tunesmith"]
        port = service["spec"]["ports"][0]["port"]
        assert pod["spec"]["containers"][0]["command"][-1] == f"http://tunesmith:{port}/readyz"


def test_the_chart_is_of_this_version() -> None:
    chart = YAML(typ="safe").load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart["appVersion"] == chart["version"] == version[1]


def test_migrations_come_first_where_the_database_is_outside(manifests: dict[str, list[dict[str, Any]]]) -> None:
    jobs = {name: next(one for one in found if one["kind"] == "Job") for name, found in manifests.items()}
    assert jobs["many-nodes"]["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # What a hook mounts must be there before the release is.
    assert not any("persistentVolumeClaim" in one for one in jobs["many-nodes"]["spec"]["template"]["spec"]["volumes"])
    assert "annotations" not in jobs["kind"]["metadata"]
