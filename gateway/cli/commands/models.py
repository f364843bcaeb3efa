"""The registry: list models, look at one, add, upload, tag, download, push or delete one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.cli import fetching, show, submit, verified, watch
from gateway.cli.client import Client, connect
from gateway.cli.fetching import address
from shared.settings import Settings

HELP = "list, show, add, upload, tag, download, push or delete models"

#: Never uploaded: they run code when they are loaded, and the server would refuse them.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: How the folders begin in which a training keeps what it goes on from.
BESIDE = ("checkpoint-", "global_step", ".")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=list(ACTIONS))
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the model's name in the catalog; for list: its versions"
    )
    parser.add_argument(
        "item",
        nargs="?",
        metavar="SOURCE|DIR|REPOSITORY",
        help="for add: a Hub id, or a path under an import root; for upload: the folder; for "
        "download: the folder (default: the model's name); "
        "for push: owner/name on the Hub, with HF_TOKEN in the environment",
    )
    parser.add_argument("--base", help="for add and upload of an adapter: its base (default: as its own config says)")
    parser.add_argument("--aliases", metavar="A,B", help="for tag: all that it has then; another version loses them")
    parser.add_argument("--tags", metavar="A,B", help="for tag: all that it has then; for list: one, to list by")
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="for tag; without VALUE: gone"
    )
    parser.add_argument("--public", action="store_true", help="for push: a repository that is made for it is public")
    parser.add_argument("--branch", help="for push: default main")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    act, needed = ACTIONS[args.action]
    if None in (args.name, args.item)[: len(needed)]:
        args.parser.error(f"{args.action} needs {' and '.join(needed)}")
    with connect(Settings.from_env()) as client:
        return act(client, console, args) or 0


def _list(client: Client, console: Console, args: Namespace) -> None:
    models = client.get("/v1/models", family=args.name, tag=args.tags, in_catalog="true")["data"]
    if args.json:
        show.as_json(console, models)
        return
    rows = [
        (model["id"], model["kind"], model["base_model"], show.size(model["size_bytes"]), model["version"],
         ", ".join([*model["aliases"], *model["tags"]]), model["status"], model["job_id"])
        for model in models
    ]  # fmt: skip
    show.table(console, ("name", "kind", "base", "size", "version", "marks", "serving", "made by"), rows, "no models")


def _show(client: Client, console: Console, args: Namespace) -> None:
    model = client.get(address(args.name))
    if args.json:
        show.as_json(console, model)
        return
    told = {name: model.get(name) for name in ("id", "kind", "root", "base_model", "format", "digest", "status")}
    told["size"] = show.size(model.get("size_bytes"))
    told["version"] = f"{model['version']} of {model['family']}" if model["family"] else None
    told |= {name: ", ".join(model[name]) for name in ("aliases", "tags", "served_by", "derived") if model[name]}
    told |= model["metadata"]
    show.table(console, ("", ""), list(told.items()), "")
    console.print("\n[bold]made from[/]")
    for step in model["lineage"]:
        console.print(f"  {_step(step)}", soft_wrap=True, markup=False)
    for line in verified.lines(model["config"].get("verification") or {}):
        console.print(line, soft_wrap=True, markup=False)
    for pushed in model["pushes"]:
        console.print(f"on the Hub: {pushed['url']} ({pushed['commit'][:12]})", soft_wrap=True, markup=False)
    for found in model["evaluations"]:
        of = found["dataset"] or found["task"]
        console.print(f"{of}: {show.measured(found['metrics'])}", soft_wrap=True, markup=False)


def _step(step: dict[str, Any]) -> str:
    if step["object"] == "job":
        data = ", ".join(dataset["name"] for dataset in step.get("datasets", ()))
        return f"job {step['id']} ({step.get('kind', 'deleted')}){f' on {data}' if data else ''}"
    return f"{step['id']} ({step['kind'] if step['in_catalog'] else 'not in the catalog'})"


def _add(client: Client, console: Console, args: Namespace) -> None:
    base = {"base_model": args.base} if args.base else {}
    model = client.post("/v1/models", {"name": args.name, "model_name_or_path": args.item, **base})
    console.print(f"added [bold]{model['id']}[/]")


def _upload(client: Client, console: Console, args: Namespace) -> None:
    folder = Path(args.item)
    if not folder.is_dir():
        args.parser.error(f"{folder} is not a folder")
    fields = {"name": args.name} | ({"base_model": args.base} if args.base else {})
    files = {path.relative_to(folder).as_posix(): path for path in _of_model(folder)}
    model = client.upload_folder("/v1/models", files, fields)
    console.print(f"added [bold]{model['id']}[/]: {model['kind']}, {show.size(model['size_bytes'])}", soft_wrap=True)


def _of_model(folder: Path) -> list[Path]:
    """What is a model's, without what a training left beside it."""
    parts = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    return sorted(path for path in parts if not parts[path][0].startswith(BESIDE) and path.suffix not in PICKLED)


def _tag(client: Client, console: Console, args: Namespace) -> None:
    given = {name: getattr(args, name) for name in ("aliases", "tags") if getattr(args, name) is not None}
    changes: dict[str, Any] = {name: [one for one in text.split(",") if one] for name, text in given.items()}
    pairs = dict(pair.partition("=")[::2] for pair in args.metadata)
    changes |= {"metadata": {key: value or None for key, value in pairs.items()}} if pairs else {}
    if not changes:
        args.parser.error("tag needs --aliases, --tags or --metadata")
    model = client.patch(address(args.name), changes)
    told = {name: ", ".join(model[name]) or "none" for name in ("aliases", "tags")}
    console.print(f"{model['id']}: aliases {told['aliases']}; tags {told['tags']}", soft_wrap=True)


def _download(client: Client, console: Console, args: Namespace) -> None:
    folder = Path(args.item or args.name.rpartition("/")[2].replace(":", "-"))
    with watch.make_progress(console) as progress:
        tasks: dict[str, Any] = {}

        def tell(path: str, num_bytes: int) -> None:
            if path not in tasks:
                tasks[path] = progress.add_task(path, total=None, count="", note="")
            progress.update(tasks[path], count=show.size(num_bytes))

        files = fetching.fetch(client, args.name, folder, tell)
    size = show.size(sum(file["size_bytes"] for file in files))
    console.print(f"{folder}: {len(files)} files, {size}, every SHA-256 as it was sealed", soft_wrap=True)


def _push(client: Client, console: Console, args: Namespace) -> int:
    token = submit.hub_token() or console.input("Hugging Face token that may write: ", password=True)
    body = {
        "kind": "push",
        "model_name_or_path": args.name,
        "export_hub_model_id": args.item,
        "export_hub_private": not args.public,
        "export_hub_revision": args.branch,
        "hf_hub_token": token,
    }
    job = client.post("/v1/jobs", {name: value for name, value in body.items() if value is not None})
    return watch.conclude(console, watch.watch(client, console, job["id"]))


def _delete(client: Client, console: Console, args: Namespace) -> None:
    client.delete(address(args.name))
    console.print(f"deleted {args.name}")


#: Action -> what it does, and the words that it needs.
ACTIONS: dict[str, tuple[Callable[[Client, Console, Namespace], int | None], tuple[str, ...]]] = {
    "list": (_list, ()),
    "show": (_show, ("NAME",)),
    "add": (_add, ("NAME", "SOURCE")),
    "upload": (_upload, ("NAME", "DIR")),
    "tag": (_tag, ("NAME",)),
    "push": (_push, ("NAME", "OWNER/REPOSITORY")),
    "download": (_download, ("NAME",)),
    "delete": (_delete, ("NAME",)),
}
