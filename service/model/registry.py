"""The store of model packages: `<store>/<name>/<version>/`, and which version of a name is active."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from schemas.base import Value
from schemas.messages import ModelRef, Sha256
from service.errors import PackageError, PackageNotFound, PackageRefused, UsageError
from service.files import draft_folder, locked, unwritable
from service.model.manifest import ModelManifest, ModelName, ModelVersion
from service.model.package import ModelPackage, package_id, read_package, seal, write_package

if TYPE_CHECKING:
    import torch

POINTER = "active.json"
_NAME: TypeAdapter[str] = TypeAdapter(ModelName)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Activation(Value):
    """One version with the id it had when it was activated."""

    version: ModelVersion
    sha256: Sha256


class ActivePointer(Value):
    """The file that says which version judges; `previous` ends with the one to roll back to.

    rolled_back: the version that was given up for `active` by a rollback, where that was the last thing to happen.
    """

    active: Activation
    previous: tuple[Activation, ...] = ()
    rolled_back: Activation | None = None


class ModelRegistry:
    """Finds, publishes and activates packages. Every change is one atomic rename; of several writers one waits."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def names(self) -> list[str]:
        """Return the names that have a version, in alphabetical order."""
        if not self.store.is_dir():
            return []
        return sorted(
            entry.name for entry in self.store.iterdir() if is_model_name(entry.name) and self.versions(entry.name)
        )

    def versions(self, name: str) -> list[str]:
        """Return the versions of `name`, oldest first; none for a name that does not exist."""
        folder = self.store / name
        if not is_model_name(name) or not folder.is_dir():
            return []
        found = (entry.name for entry in folder.iterdir() if entry.is_dir() and _VERSION.fullmatch(entry.name))
        return sorted(found, key=int)

    def active(self, name: str) -> str | None:
        """Return the active version of `name`, None where there is none. Raises PackageRefused for a broken pointer."""
        pointer = self._pointer(name)
        return None if pointer is None else pointer.active.version

    def resolve(self, reference: str) -> Path:
        """Return the package that `reference` means: `name` (its active version), `name@version`, or a path.

        Raises:
            PackageNotFound: nothing of that name, version or path.
            PackageRefused: the active version is not the package that was activated.
        """
        name, at, version = reference.partition("@")
        if self.versions(name):
            return self._find(name, version) if at else self._find_active(name)
        path = Path(reference)
        if path.is_dir():
            package_id(path)
            return path
        raise PackageNotFound(f"no model {reference!r} in {self.store}, and no package of that path")

    def read(self, name: str, version: str) -> ModelPackage:
        """Read and verify one version. Raises PackageNotFound, PackageRefused."""
        package = read_package(self._find(name, version))
        if (package.manifest.name, package.manifest.version) != (name, version):
            raise PackageRefused(f"{package.path} says that it is {package.ref.reference}, not {name}@{version}")
        return package

    def activate(
        self, name: str, version: str, *, device: torch.device | str = "cpu", instead_of: ModelRef | None = None
    ) -> None:
        """Make `version` the active one, if its golden frames reproduce on `device`. Raises CangateError.

        instead_of: the version of `name` that judged until now, which need not be the active one: rollback goes to it.
        """
        package = self._proven(name, version, device)
        with locked(self.store / name):
            self._activate(package, instead_of)

    def activate_first(self, name: str, version: str, *, device: torch.device | str = "cpu") -> bool:
        """Do as `activate` where no version is active, and tell whether that was so. Raises CangateError."""
        if self.active(name) is not None:
            return False
        package = self._proven(name, version, device)
        with locked(self.store / name):
            is_first = self.active(name) is None
            if is_first:
                self._activate(package, None)
        return is_first

    def was_rolled_back(self, name: str, judging: ModelRef) -> bool:
        """Tell whether somebody else has just gone back from the version that judges here. Raises PackageError."""
        pointer = self._pointer(name)
        return pointer is not None and _is_of(pointer.rolled_back, judging)

    def rollback(self, name: str, *, device: torch.device | str = "cpu", judging: ModelRef | None = None) -> str:
        """Activate the version that was active before, under the same condition; return it.

        judging: what is given up. Where another worker of the same store has just gone back from it, that is done.

        Raises CangateError, also where another version was activated meanwhile: what came before that is another one.
        """
        pointer = self._pointer(name)
        if pointer is not None and judging is not None and _is_of(pointer.rolled_back, judging):
            return pointer.active.version
        if pointer is None or not pointer.previous:
            raise PackageRefused(f"model {name}: there is no earlier activation to roll back to")
        *earlier, target = pointer.previous
        package = self._proven(name, target.version, device)
        if package.id != target.sha256:
            raise PackageRefused(f"model {name}@{target.version} is not the package that was activated")
        with locked(self.store / name):
            found = self._pointer(name)
            back = ActivePointer(active=target, previous=tuple(earlier), rolled_back=pointer.active)
            if found not in (pointer, back):
                raise PackageRefused(f"model {name}: another version was activated meanwhile")
            self._point(name, back)
        return target.version

    def publish(self, directory: Path, manifest: ModelManifest) -> Path:
        """Move a written package from a `draft` to its place as the next version of its name; return that."""
        while True:
            version = str(max((int(known) for known in self.versions(manifest.name)), default=0) + 1)
            seal(directory, manifest.model_copy(update={"version": version}))
            target = self.store / manifest.name / version
            try:
                directory.rename(target)
            except OSError as exc:
                if exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue  # somebody else was faster: take the next number
                raise unwritable(target, exc) from exc
            _sync(target.parent)
            return target

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """Lend an empty directory beside the versions of `name`; what is not published from it is gone afterwards.

        So are the drafts of trainings that were killed.

        Raises CangateError: the name cannot be one, or the store cannot be written.
        """
        folder = self.store / check_model_name(name)
        try:
            with draft_folder(folder, ".draft-") as directory:
                yield directory
        finally:
            with contextlib.suppress(OSError):  # not empty: the name has versions
                folder.rmdir()

    def add_with_threshold(self, name: str, tau: float, *, judging: ModelRef | None = None) -> str:
        """Publish a copy with another `tau`; return its version. Raises CangateError.

        judging: which version of `name` to copy, for it need not be the active one; None copies that. Where another
        worker of the same store has just made that copy, it is the one.
        """
        if judging is None:
            package = read_package(self._find_active(name))
        else:
            package = self.read(name, judging.version)
            if package.id != judging.sha256:
                raise PackageRefused(f"{package.path} is not the package that judges")
        try:
            manifest = ModelManifest.model_validate(
                {**dict(package.manifest), "tau": tau, "parent": package.id, "created_at": datetime.now(UTC)}
            )
        except ValidationError as exc:
            raise PackageRefused(f"model {name}: {tau} cannot be a threshold") from exc
        golden = {golden.file: (package.path / golden.file).read_bytes() for golden in package.manifest.golden}
        with locked(self.store / name), self.draft(name) as directory:
            made = self._copy_of(manifest, since=int(package.ref.version))
            if made is not None:
                return made
            write_package(directory, manifest, package.vectors, golden, package.backbone)
            return self.publish(directory, manifest).name

    def _copy_of(self, manifest: ModelManifest, *, since: int) -> str | None:
        """Return the version above `since` that differs in version and time alone, None where there is none."""
        for version in self.versions(manifest.name):
            if int(version) > since:
                with contextlib.suppress(PackageError):  # another process may be at it
                    there = self.read(manifest.name, version).manifest
                    if there == manifest.model_copy(update={"version": version, "created_at": there.created_at}):
                        return version
        return None

    def _activate(self, package: ModelPackage, instead_of: ModelRef | None) -> None:
        name, version = package.ref.name, package.ref.version
        pointer = self._pointer(name)
        previous = [] if pointer is None else list(pointer.previous)
        until_now = [] if pointer is None else [pointer.active]
        if instead_of is not None:
            until_now.append(Activation(version=instead_of.version, sha256=instead_of.sha256))
        for activation in until_now:
            if activation.version != version and activation not in previous[-1:]:
                previous.append(activation)
        active = Activation(version=version, sha256=package.id)
        self._point(name, ActivePointer(active=active, previous=tuple(previous)))

    def _proven(self, name: str, version: str, device: torch.device | str) -> ModelPackage:
        package = self.read(name, version)
        package.check_golden(package.build_pipeline(device))
        return package

    def _find(self, name: str, version: str) -> Path:
        if version not in self.versions(name):
            raise PackageNotFound(f"no model {name}@{version} in {self.store}")
        return self.store / name / version

    def _find_active(self, name: str) -> Path:
        pointer = self._pointer(name)
        if pointer is None:
            raise PackageNotFound(f"no version of model {name} in {self.store} is active")
        path = self._find(name, pointer.active.version)
        if package_id(path) != pointer.active.sha256:
            raise PackageRefused(f"model {name}@{path.name} is not the package that was activated")
        return path

    def _pointer(self, name: str) -> ActivePointer | None:
        path = self.store / check_model_name(name) / POINTER
        try:
            return ActivePointer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            raise PackageRefused(f"{path} cannot be read; activate a version again after removing it") from exc

    def _point(self, name: str, pointer: ActivePointer) -> None:
        folder = self.store / name
        draft = folder / f".{POINTER}.{secrets.token_hex(4)}"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(pointer.model_dump_json(indent=2, exclude_none=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(folder / POINTER)
        except OSError as exc:
            with contextlib.suppress(OSError):  # it was never made, or its disk takes nothing any more
                draft.unlink()
            raise unwritable(folder / POINTER, exc) from exc
        _sync(folder)


def _is_of(activation: Activation | None, ref: ModelRef) -> bool:
    return activation is not None and (activation.version, activation.sha256) == (ref.version, ref.sha256)


def is_model_name(text: str) -> bool:
    """Tell whether `text` can be the name of a model."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def check_model_name(text: str) -> str:
    """Return `text`. Raises UsageError where it cannot be the name of a model."""
    if not is_model_name(text):
        raise UsageError(f"model name {text!r} must be 1 to 64 letters, digits or ._- and begin with a letter or digit")
    return text


def _sync(folder: Path) -> None:
    """Have a rename on the disk: it is the directory that changed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
