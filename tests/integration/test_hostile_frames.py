"""The table of hostile images and references against the real loader, a real disk and a host that misbehaves."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.frames import AllowListedFrames
from adapters.frames.folders import RootFolders, open_below
from adapters.frames.hosts import ImageHosts
from schemas.messages import ImageRef
from schemas.settings import ImageSettings
from service.errors import FrameError, FrameMissing, FrameRefused, UsageError
from tests.support.hostile import IMAGES, MAX_BYTES, MAX_PIXELS, HostileImage, Place, encoded
from tests.support.hostile_host import hostile_host

TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("plant") / "frames"
    root.mkdir()
    (root / "a.png").write_bytes(encoded())
    (root.parent / "secret.png").write_bytes(encoded())
    with hostile_host(encoded()) as host:
        yield Place(root, host)


@pytest.fixture
def frames(place: Place) -> AllowListedFrames:
    return AllowListedFrames(settings(place))


def settings(place: Place, **changes: Any) -> ImageSettings:
    given: dict[str, Any] = {
        "roots": (place.root,),
        "http_hosts": (place.host,),
        "http_timeout_s": TIMEOUT_S,
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
    }
    return ImageSettings(**(given | changes))


@pytest.mark.parametrize("hostile", IMAGES, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # its remarks on broken metadata
def test_hostile_image_has_its_named_outcome(frames: AllowListedFrames, place: Place, hostile: HostileImage) -> None:
    """Each ends in the error that names it, in one line, at no cost to speak of."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(FrameError) as caught:
        frames.load(ImageRef(uri=hostile.uri(place), sha256=hostile.sha256), None)
    assert hostile.reason == caught.value.reason
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert grown_mib < 300, "making the two 200 MB bombs costs 200 MB, meeting them nothing"
    assert time.monotonic() - began < 20, "a deadline that holds: the host drips for longer"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as above
def test_hostile_images_leave_no_file_open(frames: AllowListedFrames, place: Place) -> None:
    """Who could make us keep one could make us keep them all."""
    refused = [hostile for hostile in IMAGES if not hostile.name.startswith("host: ")]
    before = open_files()
    for hostile in refused:
        with contextlib.suppress(FrameError):
            frames.load(ImageRef(uri=hostile.uri(place), sha256=hostile.sha256), None)
    assert open_files() <= before


def open_files() -> set[str]:
    """Return the paths that this process has open; sockets and pipes, which other tests may leave, have none."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found.add(str(descriptor.readlink()))
    return {target for target in found if target.startswith("/")}


def test_there_are_enough_of_them() -> None:
    """Sixty at least, no two of one name."""
    assert len({hostile.name for hostile in IMAGES}) == len(IMAGES) >= 60


@pytest.mark.parametrize("path", ["silent", "slow-header", "slow-body"])
def test_frame_is_not_waited_for_longer_than_its_event(place: Place, path: str) -> None:
    """A host that is silent holds a thread no longer than there is somebody to hear of its frame."""
    patient = AllowListedFrames(settings(place, http_timeout_s=30.0))
    began = time.monotonic()
    with pytest.raises(FrameMissing, match=r"the image took longer than 0\.2 s"):
        patient.load(ImageRef(uri=f"http://{place.host}/{path}"), None, until=began + 0.2)
    assert time.monotonic() - began < 5, "the host drips for longer"
    with pytest.raises(FrameMissing, match="the image took longer than 0 s"):
        patient.load(ImageRef(uri=f"http://{place.host}/{path}"), None, until=began)


def test_frame_comes_from_an_allowed_host(frames: AllowListedFrames, place: Place) -> None:
    """The same host that misbehaves elsewhere serves a good frame."""
    assert frames.load(ImageRef(uri=f"http://{place.host}/a.png"), None).width == 60


def test_host_without_a_port_is_allowed_on_any(place: Place) -> None:
    """`localhost` may be this machine; the case of a name does not matter, nor does the dot at its end."""
    hosts = ImageHosts(settings(place, http_hosts=("LocalHost",)))
    port = place.host.rpartition(":")[2]
    assert hosts.fetch(f"http://localhost:{port}/a.png") == hosts.fetch(f"http://LOCALHOST.:{port}/a.png") == encoded()


def test_dripping_host_is_given_up_at_the_deadline_of_the_whole(place: Place) -> None:
    """Not a new deadline for each byte."""
    hosts = ImageHosts(settings(place))
    for path in ("slow-header", "slow-body"):
        began = time.monotonic()
        with pytest.raises(FrameMissing, match=r"longer than 0\.4 s"):
            hosts.fetch(f"http://{place.host}/{path}")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("127.0.0.1", (), False),
        ("10.1.2.3", (), False),
        ("10.1.2.3", ("10.1.0.0/16",), True),
        ("10.1.2.3", ("10.2.0.0/16",), False),
        ("169.254.169.254", ("10.0.0.0/8",), False),
        ("192.168.1.1", (), False),
        ("::1", (), False),
        ("fe80::1", (), False),
        ("fd00::1", ("fd00::/8",), True),
        ("::ffff:127.0.0.1", (), False),
        ("0.0.0.0", (), False),
        ("93.184.215.14", (), True),
    ],
)
def test_name_must_not_lead_behind_the_firewall(
    place: Place, monkeypatch: pytest.MonkeyPatch, address: str, networks: tuple[str, ...], allowed: bool
) -> None:
    """Who rules a name that is allowed does not thereby rule where we connect to."""
    hosts = ImageHosts(settings(place, http_hosts=("camera.example",), http_networks=networks))
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    monkeypatch.setattr(socket, "create_connection", _unreachable)
    with pytest.raises(FrameError) as caught:
        hosts.fetch("http://camera.example/a.png")
    assert (type(caught.value) is FrameMissing) == allowed, str(caught.value)


def _unreachable(*_: object, **__: object) -> socket.socket:
    raise OSError("unreachable")


def test_name_is_looked_up_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is connected to is the address that was judged, not what the name says a moment later."""
    connected: list[object] = []
    answers = iter(["93.184.215.14", "127.0.0.1"])

    def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FrameMissing):
        ImageHosts(settings(place, http_hosts=("camera.example",))).fetch("http://camera.example/a.png")
    assert connected == [("93.184.215.14", 80)]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand at `addresses`, in this order."""
    rows = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)


def connect_by(monkeypatch: pytest.MonkeyPatch, outcome: dict[str, OSError]) -> list[tuple[str, float]]:
    """Let addresses end as `outcome` says, and connect to any other; returns what is tried, with its time limit."""
    tried: list[tuple[str, float]] = []

    def connect(address: tuple[str, int], timeout: float, **_: object) -> socket.socket:
        tried.append((address[0], timeout))
        if address[0] in outcome:
            raise outcome[address[0]]
        there = socket.socket()
        there.connect(address)
        return there

    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


def test_name_is_tried_at_each_of_its_addresses(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that listens on IPv4 only, whose name has an IPv6 address as well, which is found first."""
    host, port = place.host.split(":")
    resolve_to(monkeypatch, "::1", host, host)
    tried = connect_by(monkeypatch, {"::1": ConnectionRefusedError("refused")})
    hosts = ImageHosts(settings(place, http_hosts=("localhost",)))
    assert hosts.fetch(f"http://localhost:{port}/a.png") == encoded()
    assert [address for address, _ in tried] == ["::1", host]


def test_silent_address_leaves_the_next_its_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its share of what is left, the last one all of it; where none answers the frame is missing."""
    resolve_to(monkeypatch, "93.184.215.1", "93.184.215.2", "93.184.215.3")
    tried = connect_by(monkeypatch, {f"93.184.215.{number}": TimeoutError() for number in (1, 2, 3)})
    hosts = ImageHosts(settings(place, http_hosts=("camera.example",), http_timeout_s=60.0))
    with pytest.raises(FrameMissing, match="longer than 60 s"):
        hosts.fetch("http://camera.example/a.png")
    assert [address for address, _ in tried] == ["93.184.215.1", "93.184.215.2", "93.184.215.3"]
    for (_, limit_s), most_s in zip(tried, (20, 30, 60), strict=True):
        assert limit_s <= most_s


def test_address_that_is_not_allowed_is_never_tried(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where those around it, which are allowed, let nobody in."""
    resolve_to(monkeypatch, "127.0.0.1", "93.184.215.14", "::ffff:10.0.0.1", "169.254.169.254", "10.1.2.3")
    refused = ConnectionRefusedError("refused")
    tried = connect_by(monkeypatch, {"93.184.215.14": refused, "10.1.2.3": refused})
    hosts = ImageHosts(settings(place, http_hosts=("camera.example",), http_networks=("10.1.0.0/16",)))
    with pytest.raises(FrameMissing, match="refused"):
        hosts.fetch("http://camera.example/a.png")
    assert [address for address, _ in tried] == ["93.184.215.14", "10.1.2.3"]


def test_resolver_that_hangs_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds, and only so many threads are ever lost to it."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    hosts = ImageHosts(settings(place, http_hosts=("camera.example",), http_timeout_s=0.01))
    for expected in ["in time"] * 8 + ["does not answer"] * 2:
        with pytest.raises(FrameMissing, match=expected):
            hosts.fetch("http://camera.example/a.png")
    answer.set()


def test_link_that_takes_the_place_of_a_folder_leads_nowhere(place: Place) -> None:
    """The path was judged; what is opened is what was judged, or nothing."""
    (place.root / "day").unlink(missing_ok=True)
    (place.root / "day").symlink_to(place.root.parent)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        open_below(place.root, ("day", "secret.png"))
    (place.root / "night.png").unlink(missing_ok=True)
    (place.root / "night.png").symlink_to(place.root.parent / "secret.png")
    with pytest.raises(OSError, match="symbolic links"):
        open_below(place.root, ("night.png",))


def test_race_between_a_folder_and_a_link_is_never_won(tmp_path: Path) -> None:
    """Somebody exchanges a folder for a link as fast as he can; the file behind the link never comes out."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder, content in ((root / "day", b"inside"), (outside, b"outside")):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(content)
    (root / "link").symlink_to(outside)
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            (root / "day").rename(root / "kept")
            (root / "link").rename(root / "day")
            (root / "day").rename(root / "link")
            (root / "kept").rename(root / "day")

    swapper = threading.Thread(target=exchange)
    swapper.start()
    seen: list[bytes] = []
    try:
        folders = RootFolders((root,))
        give_up = time.monotonic() + 20
        while seen.count(b"inside") < 300 and time.monotonic() < give_up:
            try:
                seen.append(folders.read(root / "day" / "1.png", max_bytes=100))
            except (FrameMissing, FrameRefused):
                seen.append(b"")
    finally:
        over.set()
        swapper.join()
    assert set(seen) <= {b"inside", b""}
    assert b"inside" in seen


@pytest.mark.parametrize("root", ["/", "/proc", "/proc/self", "/sys", "/dev"])
def test_root_that_holds_devices_is_refused_at_start(root: str) -> None:
    """Kernel files look like files and are none."""
    with pytest.raises(UsageError, match=rf"images\.roots: {root} holds devices"):
        RootFolders((Path(root),))


@pytest.mark.parametrize(
    "unusable",
    [
        {"http_hosts": ["http://camera"]},
        {"http_hosts": ["user@camera"]},
        {"http_networks": ["10.0.0.1/8"]},
        {"http_networks": ["plant"]},
    ],
)
def test_allow_list_that_could_never_match_is_refused(unusable: dict[str, Any]) -> None:
    """Rather than silently allowing nothing."""
    with pytest.raises(ValueError, match=r"http_(hosts|networks)"):
        ImageSettings.model_validate(unusable)


def test_unusable_authority_is_named_at_start(place: Place, tmp_path: Path) -> None:
    """A file that cannot be read, or holds no certificate."""
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for path in (tmp_path / "missing.pem", rubbish):
        with pytest.raises(UsageError, match=rf"images\.http_ca_file {path}: "):
            ImageHosts(settings(place, http_ca_file=path))
