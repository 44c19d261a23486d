"""A model package as one file, to carry it from one store to another."""

from __future__ import annotations

import errno
import re
import zipfile
import zlib
from pathlib import Path

from service.errors import PackageNotFound, PackageRefused, UsageError
from service.files import draft_folder, naming, real_path, whole_file
from service.model.package import BACKBONE, BANK, MANIFEST, SUMS, ModelPackage, is_package, read_package, write_package
from service.model.registry import ModelRegistry, check_model_name

LARGEST_PACKAGE = 2 << 30
"""Bytes once unpacked."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MEMBER = re.compile(rf"{'|'.join(map(re.escape, (MANIFEST, BANK, BACKBONE, SUMS)))}|golden/[0-9]+\.png")


def export_package(package: ModelPackage, file: Path, *, replace: bool = False) -> None:
    """Write the files of `package` into the ZIP `file`, at once or not at all; the same package gives the same bytes.

    Raises CangateError where it cannot be written, would lie inside a package: that holds what was packed, no more; or
    would take the place of a file that is not empty, unless told to `replace` it.
    """
    around = next((folder for folder in real_path(file).parents if is_package(folder)), None)
    if around is not None:
        raise UsageError(f"{file} would lie in the package {around}, which is never changed")
    with naming(file):
        if not replace and file.is_file() and file.stat().st_size:
            raise UsageError(f"{file} is there already: choose another name, or give --replace")
    with whole_file(file) as draft, naming(file), zipfile.ZipFile(draft, "w") as archive:
        for path in sorted(path for path in package.path.rglob("*") if path.is_file()):
            # no date: it is not part of a package
            member = zipfile.ZipInfo(path.relative_to(package.path).as_posix())
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)


def import_package(file: Path, registry: ModelRegistry, name: str | None = None) -> Path:
    """Verify the package in the ZIP `file` and publish it as the next version of its name, or of `name`; return that.

    Its id becomes the parent of the new version, whose number is another.

    Raises:
        PackageNotFound: there is no such file.
        PackageRefused: no ZIP, damaged, larger than `LARGEST_PACKAGE`, or a member that is not part of a package; or it
            cannot be read.
        CangateError: the store cannot be written.
    """
    with draft_folder(registry.store, ".draft-") as directory:
        try:
            _unpack(file, directory)
        except FileNotFoundError as exc:
            raise PackageNotFound(f"no file {file}") from exc
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as exc:
            if isinstance(exc, OSError) and exc.errno != errno.EINVAL:  # that is of a place before its beginning
                raise PackageRefused(f"{file}: cannot be read: {exc.strerror}") from exc
            raise PackageRefused(f"{file}: damaged, or no ZIP of a package") from exc
        try:
            package = read_package(directory)
            for _ in package.golden_frames():
                pass  # whether their scores are right shows at the activation, where the model will judge
        except (PackageNotFound, PackageRefused) as exc:
            raise PackageRefused(f"{file}: {str(exc).replace(f'package {directory}: ', '')}") from exc
        target = check_model_name(name or package.manifest.name)
        manifest = package.manifest.model_copy(update={"name": target, "parent": package.id})
        golden = {item.file: (directory / item.file).read_bytes() for item in manifest.golden}
        with registry.draft(target) as draft:
            write_package(draft, manifest, package.vectors, golden, package.backbone)
            return registry.publish(draft, manifest)


def _unpack(file: Path, directory: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        strange = [member.filename for member in members if not _MEMBER.fullmatch(member.filename)]
        if strange:
            raise PackageRefused(f"{file}: {strange[0][:80]!r} does not belong to a package")
        if len({member.filename for member in members}) < len(members):
            raise PackageRefused(f"{file}: holds a file twice")
        strange = [member.filename for member in members if member.compress_type not in _COMPRESSIONS]
        if strange:
            raise PackageRefused(f"{file}: {strange[0]} is neither stored nor deflated")
        if sum(member.file_size for member in members) > LARGEST_PACKAGE:
            raise PackageRefused(f"{file}: larger than {LARGEST_PACKAGE} bytes")
        for member in members:
            path, content = directory / member.filename, archive.read(member)
            with naming(path):
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
