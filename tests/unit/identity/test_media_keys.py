"""Keys of images, audio clips and videos: whatever changes what an encoder sees changes the key."""

import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache.errors import InvalidItem
from cas_cache.identity import keys_of_rows
from naming import named


def key(kind: str, value: Any) -> str:
    """The key of a row that holds one value."""
    return keys_of_rows({kind: [value]}, (kind,)).tobytes().hex()


def all_differ(kind: str, values: list[Any]) -> bool:
    """Whether no two of the values share a key."""
    return len({key(kind, value) for value in values}) == len(values)


@pytest.fixture
def image() -> Any:
    """PIL.Image, which the package itself never imports."""
    from PIL import Image

    return Image


def _picture(image: Any, mode: str = "RGB", size: tuple[int, int] = (5, 3)) -> Any:
    bands = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return image.fromarray(bands).convert(mode)


def test_image_copy_has_the_same_key(image: Any) -> None:
    """The same pixels are the same item, wherever they came from."""
    picture = _picture(image)
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert key("image", picture) == key("image", picture.copy()) == key("image", image.open(file))


def test_image_one_pixel_matters(image: Any) -> None:
    """One bit of one band of one pixel is another picture."""
    pictures = [_picture(image)]
    for at in ((0, 0), (2, 1), (4, 2)):
        other = _picture(image)
        red, green, blue = other.getpixel(at)
        other.putpixel(at, (red, green ^ 1, blue))
        pictures.append(other)
    assert all_differ("image", pictures)


def test_image_mode_and_size_matter(image: Any) -> None:
    """The same bytes under another mode or size are another picture."""
    data = bytes(range(48))
    shapes = [("RGB", (16, 1)), ("RGB", (4, 4)), ("RGB", (1, 16)), ("L", (48, 1)), ("RGBA", (12, 1)), ("CMYK", (12, 1))]
    shapes += [("HSV", (16, 1)), ("YCbCr", (16, 1)), ("L", (6, 8)), ("F", (12, 1)), ("I", (12, 1))]
    assert all_differ("image", [image.frombytes(mode, size, data) for mode, size in shapes])


def test_image_palette_and_transparency_matter(image: Any) -> None:
    """The same indices with other colours, or other see-through ones, are another picture."""
    pictures = []
    for palette, transparency in [
        ([0, 0, 0, 9, 9, 9], None),
        ([0, 0, 0, 9, 9, 8], None),
        ([0, 0, 0, 9, 9, 9], 0),
        ([0, 0, 0, 9, 9, 9], 1),
        ([0, 0, 0, 9, 9, 9], b"\x00\xff"),
        ([0, 0, 0, 9, 9, 9], b"\x80\xff"),
    ]:
        picture = image.frombytes("P", (2, 2), bytes([0, 1, 1, 0]))
        picture.putpalette(palette)
        if transparency is not None:
            picture.info["transparency"] = transparency
        pictures.append(picture)
    assert all_differ("image", pictures)


def test_image_orientation_matters(image: Any) -> None:
    """Loaders turn a picture as its EXIF says; other EXIF tags change nothing that is seen."""
    pictures = [_picture(image)]
    for orientation in (3, 6, 8):
        turned = _picture(image)
        turned.getexif()[0x0112] = orientation
        pictures.append(turned)
    assert all_differ("image", pictures)
    dated = _picture(image)
    dated.getexif()[0x0132] = "2024:01:01 00:00:00"
    assert key("image", dated) == key("image", pictures[0])


def test_image_with_a_broken_orientation_has_a_key(image: Any) -> None:
    """A tag of the wrong type is part of the key, not a crash."""
    pictures = [_picture(image)]
    for orientation in (b"\x06", "6", 6):
        broken = _picture(image)
        broken.getexif()[0x0112] = orientation
        pictures.append(broken)
    assert all_differ("image", pictures)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "ICO", "BMP"])
def test_image_key_does_not_depend_on_being_loaded(image: Any, form: str) -> None:
    """A picture opened from a file has one key, asked for before, after and long after it was decoded."""
    file = io.BytesIO()
    picture = _picture(image, size=(16, 16))
    exif = image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if form in {"PNG", "JPEG", "WEBP"} else {}
    picture.save(file, form, **options)
    fresh, loaded = image.open(io.BytesIO(file.getvalue())), image.open(io.BytesIO(file.getvalue()))
    loaded.load()
    first = key("image", fresh)
    assert first == key("image", fresh) == key("image", loaded)


@pytest.mark.parametrize("value", [b"\x89PNG", {"bytes": b"", "path": "x.png"}, np.zeros((2, 2, 3)), "x.png"], ids=type)
def test_image_must_be_decoded(value: Any) -> None:
    """Paths, bytes and arrays are no pictures."""
    with pytest.raises(InvalidItem, match="item 0"):
        key("image", value)


def test_audio_matters_in_every_part() -> None:
    """Samples, dtype, shape and rate each make another clip."""
    samples = np.arange(8, dtype=np.float32)
    flipped = samples.copy()
    flipped[3] = np.nextafter(flipped[3], np.float32(9))
    clips = [
        (samples, 16000),
        (samples, 16001),
        (samples, 1600),
        (flipped, 16000),
        (samples.astype(np.float64), 16000),
        (samples.view(np.int32), 16000),
        (samples.reshape(2, 4), 16000),
        (samples.reshape(4, 2), 16000),
        (samples.reshape(2, 4).T.copy(), 16000),
        (samples[:7], 16000),
        (samples[:0], 16000),
    ]
    assert all_differ("audio", [{"array": array, "sampling_rate": rate} for array, rate in clips])


def test_audio_layout_in_memory_does_not_matter() -> None:
    """Strides, byte order and the type of the rate's integer are not what an encoder hears."""
    samples = np.arange(12, dtype=np.float32).reshape(3, 4)
    same = [samples, np.asfortranarray(samples), samples.astype(">f4"), np.repeat(samples, 2, axis=1)[:, ::2]]
    assert len({key("audio", {"array": array, "sampling_rate": 8000}) for array in same}) == 1
    assert key("audio", {"array": samples, "sampling_rate": np.int64(8000)}) == key(
        "audio", {"array": samples, "sampling_rate": 8000, "path": "elsewhere.wav"}
    )


@pytest.mark.parametrize(
    "audio",
    [
        None.__class__,
        np.zeros(3),
        {"array": np.zeros(3)},
        {"sampling_rate": 8000},
        {"array": np.zeros(3), "sampling_rate": None},
        {"array": np.zeros(3), "sampling_rate": 8000.5},
        {"array": [[1.0], [1.0, 2.0]], "sampling_rate": 8000},
        {"array": np.array([object()], dtype=object), "sampling_rate": 8000},
        {"array": ["a"], "sampling_rate": 8000},
        {"array": None, "sampling_rate": 8000},
    ],
    ids=named,
)
def test_audio_that_is_none_is_refused(audio: Any) -> None:
    """Above all an array of objects: its bytes are addresses, which other objects get later."""
    with pytest.raises(InvalidItem, match="item 0"):
        key("audio", audio)


@dataclass
class Metadata:
    """What torchcodec's VideoStreamMetadata says, as far as a frame's look and time go."""

    num_frames: int
    average_fps: float | None = 2.0
    duration_seconds: float = 100.0
    rotation: float | None = None
    pixel_aspect_ratio: Any = None


@dataclass
class Batch:
    """torchcodec's FrameBatch."""

    data: Any
    pts_seconds: Any


@dataclass
class Film:
    """A video with torchcodec's interface: frames by position, a batch at a time."""

    frames: np.ndarray[Any, Any]
    metadata: Metadata
    pts: np.ndarray[Any, Any]
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_in_range(self, start: int, stop: int) -> Batch:
        """Return frames [start, stop)."""
        assert 0 <= start < stop <= len(self)
        self.asked.append((start, stop))
        return Batch(self.frames[start:stop], self.pts[start:stop])

    def get_frames_at(self, indices: list[int]) -> Batch:
        """Return frames by position."""
        return Batch(self.frames[indices], self.pts[indices])


def _film(frames: int = 130, **metadata: Any) -> Film:
    pixels = np.random.default_rng(1).integers(0, 255, (frames, 3, 4, 4), dtype=np.uint8)
    return Film(pixels, Metadata(frames, **metadata), np.arange(frames) / 2.0)


def test_video_every_frame_matters() -> None:
    """One bit of one frame anywhere, also between the frames that a sample would look at, is another film."""
    films = [_film()]
    for at in (0, 1, 63, 64, 65, 127, 128, 129):
        other = _film()
        other.frames[at, 0, 0, 0] ^= 1
        films.append(other)
    assert all_differ("video", films)


def test_video_frame_that_mteb_does_not_see() -> None:
    """Where mteb looks at one frame a second, it takes two films for one that differ in between; we do not."""
    place = importlib.util.find_spec("mteb")
    assert place is not None
    assert place.origin is not None
    spec = importlib.util.spec_from_file_location(
        "mteb_content_hashes", Path(place.origin).parent / "_content_hashes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one, other = _film(), _film()
    other.frames[65] = 255 - other.frames[65]
    assert module.hash_video(one) == module.hash_video(other)
    assert key("video", one) != key("video", other)


def test_video_is_read_once_in_order_a_batch_at_a_time() -> None:
    """A film is never held in memory as a whole."""
    film = _film()
    key("video", film)
    assert film.asked == [(0, 64), (64, 128), (128, 130)]


def test_video_order_length_and_timing_matter() -> None:
    """The same frames in another order, number, speed, turn or at other times are another film."""
    backwards, slower = _film(), _film()
    backwards.frames = backwards.frames[::-1]
    slower.pts = slower.pts.copy()
    slower.pts[70:] += 0.25
    films = [_film(), backwards, slower, _film(129), _film(average_fps=2.5), _film(average_fps=None)]
    films += [_film(rotation=90.0), _film(pixel_aspect_ratio="4/3")]
    assert all_differ("video", films)


def test_video_must_be_a_decoder() -> None:
    """An array of frames says nothing about time."""
    with pytest.raises(InvalidItem, match="item 0"):
        key("video", np.zeros((3, 4, 4, 3)))


def test_fields_of_a_row_do_not_mix() -> None:
    """The same bytes as text, picture or clip are different items, and each field of a row counts."""
    clip = {"array": np.zeros(2, np.float32), "sampling_rate": 8000}
    other = {"array": np.ones(2, np.float32), "sampling_rate": 8000}
    fields = ("text", "audio")
    rows = [("a", clip), ("a", other), ("b", clip), ("a", None), (None, clip)]
    keys = keys_of_rows({"text": [r[0] for r in rows], "audio": [r[1] for r in rows]}, fields)
    assert len({k.tobytes() for k in keys}) == len(rows)
