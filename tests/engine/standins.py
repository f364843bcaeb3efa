"""Stand-ins for upstream's base images, where no registry can be reached: Debian's packages under upstream's names.

What is tested with them is this project's images and compose.yaml, not upstream's images. There is none for Grafana,
which Debian does not have.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent / "standins"
BASE = "debian:bookworm-slim"
#: Upstream's names up to the tag, and the stage of services.Dockerfile that stands for each.
SERVICES = {"redis": "redis", "postgres": "postgres", "prom/prometheus": "prometheus"}
#: As in upstream's slim images.
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
#: Merged from the start: the package that merges later would bring all of Perl, 50 MB.
MERGED = ("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged")
#: This machine's: packages may come through a proxy that has one of its own.
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CARRIED = "/etc/carried-certificates.crt"
#: As in upstream's images: apt keeps nothing of what it fetched and reads no translations, dpkg waits for no disk.
FINISH = f"""cp {CERTIFICATES} "$1{CARRIED}"
echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; Acquire::Languages "none";
DPkg::Post-Invoke {{ "rm -f /var/cache/apt/archives/*.deb || true"; }};' >"$1/etc/apt/apt.conf.d/docker-clean"
echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
rm -rf "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb"""
MARK = 'LABEL tunesmith.stand-in="true"'

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


def provide(docker: Docker, images: Iterable[str], folder: Path) -> dict[str, str]:
    """Each image's origin: `there`, `pulled`, `stand-in` or `none`; the first that cannot be pulled says it for all."""
    origins: dict[str, str] = {}
    reachable = True
    for image in images:
        if docker("image", "inspect", image, check=False).returncode == 0:
            mark = docker("image", "inspect", "--format", '{{index .Config.Labels "tunesmith.stand-in"}}', image).stdout
            origins[image] = "stand-in" if mark.strip() == "true" else "there"
            continue
        reachable = reachable and docker("pull", "--quiet", image, check=False).returncode == 0
        origins[image] = "pulled" if reachable else _stand_in(docker, image, folder)
    return origins


def _stand_in(docker: Docker, image: str, folder: Path) -> str:
    name = image.partition(":")[0]
    if image != BASE and name not in SERVICES:
        return "none"
    if docker("image", "inspect", BASE, check=False).returncode != 0:
        _make_base(docker, folder)
    if name in SERVICES:
        file = HERE / "services.Dockerfile"
        argv = ("--network", "host", "--target", SERVICES[name], "--label", "tunesmith.stand-in=true", "--tag", image)
        docker("build", "--quiet", *argv, "--file", str(file), str(HERE))
    return "stand-in"


def _make_base(docker: Docker, folder: Path) -> None:
    archive = folder / "base.tar"
    if not archive.is_file():
        partial = archive.with_suffix(".part.tar")
        excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        argv = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            '--aptopt=Acquire::Languages "none"',
            *MERGED,
            *excludes,
            f"--customize-hook={FINISH}",
            "bookworm",
            partial,
        ]
        subprocess.run(argv, check=True, capture_output=True, text=True)
        partial.rename(archive)
    environment = (f"ENV PIP_CERT={CARRIED}", f"ENV SSL_CERT_FILE={CARRIED}", 'CMD ["bash"]')
    changes = [part for change in (MARK, *environment) for part in ("--change", change)]
    docker("import", *changes, str(archive), BASE)
