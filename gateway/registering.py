"""What becomes a model without a job: a folder below an import root, files of an upload, or a name of the Hub.

A whole model becomes a base, a folder with an adapter_config.json an adapter on its base. What a training leaves beside
its model (optimizers, checkpoints, pickled arguments) is passed over, so LLaMA Factory's output folders are taken as
they are; anything else that runs code when it is loaded is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import adapters
from gateway.auth import project_id
from gateway.services import services
from shared import adapterfiles, catalog
from shared.artifact import digest_of
from shared.errors import Complaint, Conflict, InvalidSpec, NotFound
from shared.ids import new_id
from shared.nearest import did_you_mean
from shared.records import Model, NewModel
from shared.store.models import AT
from shared.tongues import Text

MAX_NAME_CHARS = 200
FIELDS = ("name", "model_name_or_path", "base_model")
#: Files that run code when they are loaded.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Where an uploaded model came from.
UPLOAD = "upload"
#: What a training leaves beside its model, by the first part of its path.
LEFT_BESIDE = re.compile(
    r"checkpoint-\d+|global_step\d+|(training_args|optimizer|scheduler|scaler|rng_state\w*)\.(bin|pt|pth)|\.git|\.cache"
)
#: Addresses below a model.
BELOW = ("files", "archive")


@dataclass(frozen=True, kw_only=True)
class Registration:
    name: str
    #: Where it came from; kept with the record, so that the same again is the same.
    source: str
    #: Of an adapter, as the client says; None: adapter_config.json says it.
    base: str | None = None


def wish(given: dict[str, Any], *, is_upload: bool = False) -> Registration:
    """Raises InvalidSpec with every complaint."""
    known = ("name", "base_model") if is_upload else FIELDS
    complaints = [
        Complaint(field=field, message=Text("is unknown{near}", near=did_you_mean(field, known)), code="unknown_field")
        for field in given
        if field not in known
    ]
    for field in known:
        value = given.get(field)
        is_text = isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= MAX_NAME_CHARS
        if not is_text and (value is not None or field != "base_model"):
            message = Text("must be a text of 1 to {most} characters", most=MAX_NAME_CHARS)
            complaints.append(Complaint(field=field, message=message))
    if not complaints:
        complaints += _name_complaints(given["name"])
    if complaints:
        raise refusal(*complaints)
    source = UPLOAD if is_upload else given["model_name_or_path"]
    return Registration(name=given["name"], source=source, base=given.get("base_model"))


def _name_complaints(name: str) -> Iterator[Complaint]:
    if AT in name:
        yield Complaint(field="name", message=Text("has an @: it divides a model from its version"))
    if taken := set(name.split("/")[1:]) & set(BELOW):
        text = "has the part {part!r}: it is an address below a model"
        yield Complaint(field="name", message=Text(text, part=taken.pop()))


def register(wanted: Registration) -> tuple[Model, bool]:
    """From an import root or the Hub; whether it is new. Raises InvalidSpec, Conflict"""
    twin = _registered(wanted.name)
    if twin is not None:
        if twin.metadata.get("source") != wanted.source:
            raise _taken(wanted.name)
        return twin, False
    path = _folder(wanted.source)
    if path is not None:
        return copied(wanted, path), True
    if wanted.base is not None:
        text = "is for adapters whose files are here: download the adapter, then upload its folder"
        raise refusal(Complaint(field="base_model", message=text))
    new = NewModel(
        name=wanted.name, kind="base", uri=catalog.HUB + wanted.source, digest="", size_bytes=0, format="safetensors",
        metadata={"source": wanted.source},
    )  # fmt: skip
    return services().store.models.create(project_id(), new), True


def uploaded(wanted: Registration, folder: Path) -> tuple[Model, bool]:
    """From files that are given away; the same files again are the model that is there. Raises InvalidSpec, Conflict"""
    if (wrong := _unfit(folder)) is not None:
        raise refusal(Complaint(field="files", message=wrong))
    twin = _registered(wanted.name)
    if twin is None:
        return copied(wanted, folder, adopt=True), True
    if twin.metadata.get("source") != UPLOAD or digest_of(folder, skip=_is_left_beside) != twin.digest:
        raise _taken(wanted.name)
    return twin, False


def copied(wanted: Registration, path: Path, *, adopt: bool = False) -> Model:
    described = _described(wanted, path)
    uri = services().artifacts.uri("models", new_id("model-"))
    try:
        sealed = services().artifacts.put_folder(path, uri, adopt=adopt, skip=_is_left_beside)
        new = NewModel(
            name=wanted.name, uri=sealed.uri, digest=sealed.digest, size_bytes=sealed.size_bytes, format="safetensors",
            metadata={"source": wanted.source}, **described,
        )  # fmt: skip
        return services().store.models.create(project_id(), new)
    except BaseException:  # a full disk, or another gateway that was faster: nothing may be left without a record
        services().artifacts.delete(uri)
        raise


def _described(wanted: Registration, path: Path) -> dict[str, Any]:
    """Kind, base and config of the record. Raises InvalidSpec where the base is not known."""
    if not (path / "adapter_config.json").is_file():
        if wanted.base is not None:
            text = "is for adapters, and this is a whole model: leave it out"
            raise refusal(Complaint(field="base_model", message=text))
        return {"kind": "base", "config": json.loads((path / "config.json").read_text())}
    told = json.loads((path / "adapter_config.json").read_text())
    names = {"r": "lora_rank", "lora_alpha": "lora_alpha", "target_modules": "lora_target"}
    config = {"finetuning_type": "lora"} | {mine: told[name] for name, mine in names.items() if name in told}
    base = _base(wanted.base or told.get("base_model_name_or_path"))
    own = adapters.is_base_template(services(), project_id(), base, path)
    serving = adapterfiles.in_folder(path, own_template=own).as_dict()
    return {"kind": "adapter", "base_model": base, "config": config | {adapterfiles.SERVING: serving}}


def _base(name: Any) -> str:
    """What the catalog calls an adapter's base."""
    models = services().store.models.list(project_id())
    if isinstance(name, str) and (found := _registered(name)) is not None and found.kind != "adapter":
        return found.name
    here = [model.name for model in models if model.uri == f"{catalog.HUB}{name}"]
    if here:
        return here[0]
    if isinstance(name, str) and services().settings.hub and catalog.is_hub_id(name):
        return name
    near = did_you_mean(str(name), [model.name for model in models if model.kind != "adapter"])
    text = "is {name!r}: must be the model of the catalog that the adapter was trained on{near}"
    message = Text(text, name=str(name)[:200], near=near)
    raise refusal(Complaint(field="base_model", message=message, code="model_not_found"))


def _folder(name: str) -> Path | None:
    """The folder that is meant; None for a model of the Hub."""
    field = "model_name_or_path"
    path = next(_below_import_roots(name), None)
    if path is None and services().settings.hub and catalog.is_hub_id(name):
        return None
    if path is None:
        text = "is {name!r}: must be a folder below TUNESMITH_IMPORT_ROOTS, or a Hub id where TUNESMITH_HUB is on"
        message = Text(text, name=name)
        raise refusal(Complaint(field=field, message=message, code="model_not_found"))
    if wrong := _unfit(path):
        raise refusal(Complaint(field=field, message=Text("is {name!r}: {wrong}", name=name, wrong=wrong)))
    return path


def _below_import_roots(name: str) -> Iterator[Path]:
    """As an absolute path: a model of the catalog may have the folder's name, and the folder is meant."""
    settings = services().settings
    for root in settings.import_roots:
        # OSError: a name that no file can have.
        with suppress(NotFound, OSError):
            found = catalog.resolve_model(services().store, settings, project_id(), str(root / name))
            if found.path is not None:
                yield found.path


def _unfit(folder: Path) -> Text | None:
    """Why the folder cannot be registered."""
    if not folder.is_dir():
        return Text("not a folder")
    outside = [path for path in folder.rglob("*") if not path.resolve().is_relative_to(folder)]
    if outside:
        return Text("{name} is a link to a place outside of the folder", name=outside[0].name)
    files = list(_files(folder))
    if pickled := [path.name for path in files if path.suffix in PICKLED]:
        return Text("{name} may run code when it is loaded: only safetensors are taken", name=pickled[0])
    if not any(path.suffix == ".safetensors" for path in files):
        return Text("it holds no *.safetensors")
    return _unfit_adapter(folder) if (folder / "adapter_config.json").is_file() else _unfit_model(folder)


def _unfit_model(folder: Path) -> Text | None:
    if (config := _object(folder / "config.json")) is None:
        return Text("it holds no readable config.json")
    return None if config.get("model_type") else Text("its config.json has no model_type")


def _unfit_adapter(folder: Path) -> Text | None:
    config = _object(folder / "adapter_config.json")
    if config is None or config.get("peft_type") != "LORA":
        return Text("its adapter_config.json is none of peft's LoRA")
    found = (folder / "adapter_model.safetensors").is_file()
    return None if found else Text("it holds no adapter_model.safetensors")


def _object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _files(folder: Path) -> Iterator[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return (path for path in found if not _is_left_beside(path.relative_to(folder).as_posix()))


def _is_left_beside(path: str) -> bool:
    return LEFT_BESIDE.fullmatch(path.partition("/")[0]) is not None


def _registered(name: str) -> Model | None:
    try:
        return services().store.models.get(project_id(), name)
    except NotFound:
        return None


def _taken(name: str) -> Conflict:
    text = "There is a model {name!r} already: choose another name or delete it first"
    return Conflict(text, field="name", name=name)


def refusal(*complaints: Complaint) -> InvalidSpec:
    return InvalidSpec("; ".join(f"{c.field} {c.message}" for c in complaints), complaints=complaints)
