"""A Kubernetes cluster that is there already, and a release of the chart in a namespace of its own on it.

Which cluster: that of the kubeconfig that TUNESMITH_TEST_KUBECONFIG names. Its nodes have the images that `make images`
makes (kind load docker-image ...) and a storage class by default. Makes no cluster.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.cli.client import Client
from shared.settings import process_environment
from tests.platform import free_port, wait_until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "tunesmith"
VALUES = ROOT / "deploy" / "helm" / "values"
#: Of the environment for checks where it is there.
HELM = (
    shutil.which("helm", path=f"{ROOT / '.venvs' / 'checks' / 'bin'}:{process_environment('PATH')['PATH']}") or "helm"
)
NAMESPACE = "tunesmith-test"
RELEASE = "tunesmith"
#: Pod Security refuses what is not restricted, and warns about workloads that would make such pods.
LABELS = {
    f"pod-security.kubernetes.io/{mode}{what}": value
    for mode in ("enforce", "warn")
    for what, value in (("", "restricted"), ("-version", "latest"))
}
#: vLLM has its test in `make compose-test`; here it would take the room of all the others.
TRIAL = ("--values", str(VALUES / "kind.yaml"), "--set", "workers.inference.enabled=false,settings.hub=false")


class Cluster:
    def __init__(self, kubeconfig: str):
        self._kubeconfig = kubeconfig

    def kubectl(self, *argv: str, input: str | None = None, check: bool = True) -> str:
        return self._run("kubectl", "--kubeconfig", self._kubeconfig, "-n", NAMESPACE, *argv, input=input, check=check)

    def helm(self, *argv: str) -> str:
        return self._run(HELM, "--kubeconfig", self._kubeconfig, "-n", NAMESPACE, *argv)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def open(self) -> None:
        """The namespace, empty."""
        self.close()
        labels = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": NAMESPACE, "labels": LABELS}}
        self.kubectl("create", "-f", "-", input=json.dumps(labels))

    def close(self) -> None:
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")

    def kinds(self) -> set[str]:
        """What the server knows: a custom resource is there only where its operator is."""
        names = self.kubectl("api-resources", "--no-headers").splitlines()
        return {line.split()[-1] for line in names}

    def rendered(self, *argv: str) -> list[dict[str, Any]]:
        """What the chart would make, as objects."""
        text = self.helm("template", RELEASE, str(CHART), "--kube-version", self.version(), *argv)
        return [each for each in yaml.safe_load_all(text) if each]

    def version(self) -> str:
        told = json.loads(self.kubectl("version", "-o", "json"))
        return str(told["serverVersion"]["gitVersion"]).removeprefix("v")

    def apply(self, objects: list[dict[str, Any]]) -> str:
        """As the server would take them, admission and all; nothing is kept."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.kubectl("apply", "--server-side", "--dry-run=server", "--warnings-as-errors", "-f", "-", input=text)

    def settle(self) -> None:
        """Until every pod of the release is of this revision, and ready."""
        for kind in ("deployment", "statefulset"):
            for one in self.get(kind)["items"]:
                name = f"{kind}/{one['metadata']['name']}"
                self.kubectl("rollout", "status", name, "--timeout=900s")

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """With a key made as the chart's notes say. The connection ends with the gateway that it goes through."""
        made = self.kubectl(
            *("exec", f"deploy/{RELEASE}-gateway", "-c", "gateway", "--"),
            *("tunesmith", "keys", "create", "tests", "--role", "admin"),
        )
        with self._forwarded() as url, Client(url, made.strip()) as client:
            yield client

    @contextlib.contextmanager
    def _forwarded(self) -> Iterator[str]:
        port = free_port()
        argv = ["kubectl", "--kubeconfig", self._kubeconfig, "-n", NAMESPACE, "port-forward", f"svc/{RELEASE}"]
        process = subprocess.Popen([*argv, f"{port}:80"], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}"), 60, "the gateway answers through its service")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)

    def _run(self, *argv: str, input: str | None = None, check: bool = True) -> str:
        done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(argv[:8])} ...: {done.stderr[-3000:]}"
        return done.stdout


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").status_code == 200
    return False
