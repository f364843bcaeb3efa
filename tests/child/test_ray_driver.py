"""What the driver of a training under Ray does besides starting it: the place of Ray's sockets, and how ranks ended.

The training itself is in test_train_distributed.py.
"""

from __future__ import annotations

import json
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from shared import crash
from shared.attempt import EXITS, Attempt
from trainer_worker.child import ray_driver


def test_rays_sockets_have_a_short_name_below_any_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("a" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    with ray_driver.linked(long / "ray") as link:
        assert link.resolve() == (long / "ray").resolve()
        assert len(str(link)) <= ray_driver.LONGEST_LINK

    assert not link.is_symlink()


def test_links_of_killed_drivers_go_once_their_folders_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "t"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.setattr(ray_driver, "LONGEST_LINK", 200)
    gone, alive = places / f"{ray_driver.LINK}gone", places / f"{ray_driver.LINK}alive"
    gone.symlink_to(tmp_path / "nowhere")
    alive.symlink_to(tmp_path)

    with ray_driver.linked(tmp_path / "ray"):
        pass

    assert sorted(path.name for path in places.iterdir()) == [alive.name]


@pytest.mark.parametrize(
    ("log", "code", "number"),
    [
        ("step 3\n", "child_killed", signal.SIGKILL),
        ("step 3\nFatal Python error: Segmentation fault\n", "child_crashed", signal.SIGSEGV),
    ],
)
def test_a_rank_that_ray_lost_is_named_not_those_that_missed_it(
    tmp_path: Path, log: str, code: str, number: int
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank1.log").write_text(log)
    lost = RuntimeError("gloo: Connection closed by peer")
    Attempt(tmp_path).leave_error(0, lost)

    ray_driver.write_exits(tmp_path, {0: lost, 1: RuntimeError("The actor died unexpectedly")})

    assert json.loads((tmp_path / EXITS).read_text())[0]["code"] == -number
    error = crash.explain(tmp_path, "train", 1)
    assert (error["code"], error["rank"]) == (code, 1)
    assert "step 3" in error["message"]


def test_every_path_that_ranks_read_is_asked_of_a_cluster(tmp_path: Path) -> None:
    run = {
        "model_path": "/models/base", "merged_paths": ["/models/a", "/models/b"], "adapter_path": None,
        "reward": {"model_path": "/models/judge", "adapter_path": None}, "ref_model_path": "org/on-the-hub",
        "cache_dir": "/cache",
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))

    wanted = ray_driver.paths(Attempt(tmp_path))

    assert wanted == [str(tmp_path), "/models/base", "/models/a", "/models/b", "/cache", "/models/judge"]
    assert ray_driver.absent([str(tmp_path), "/no/such/model"], ray_driver.version("tunesmith")) == ["/no/such/model"]
    with pytest.raises(ray_driver.ClusterUnfit, match=r"0\.0\.0"):
        ray_driver.absent([], "0.0.0")


def test_a_cluster_whose_head_is_away_is_said_to_be_before_ray_waits_for_it() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ray_driver.ClusterUnreachable, match=address):  # bound, and nobody listens
            ray_driver.reach(f"ray://{address}")
        listening.listen()
        ray_driver.reach(address)
    ray_driver.reach("auto")
