"""Pictures of every mode, made with Pillow, and every way in which a file can be broken."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from fusionjax.data import check_images, decode_images, load_image
from fusionjax.errors import InputError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def quarters():
    """A picture 22 wide and 14 high: red, green above blue, white."""
    pixels = np.empty((14, 22, 3), np.uint8)
    pixels[:7, :11], pixels[:7, 11:], pixels[7:, :11], pixels[7:, 11:] = RED, GREEN, BLUE, WHITE
    return pixels


def corners(pixels):
    height, width = pixels.shape[:2]
    return [tuple(int(value) for value in pixels[y, x]) for y in (2, height - 3) for x in (2, width - 3)]


def test_native_size_is_exact(quarters, tmp_path):
    path = tmp_path / "quarters.png"
    path.write_bytes(encode(Image.fromarray(quarters)))
    for source in (path, str(path), path.read_bytes(), quarters):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, quarters)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "TGA", "GIF"])
def test_formats(quarters, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(quarters), kind, **options)), quarters)


def test_grey():
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(grey))), np.stack([grey] * 3, axis=2))


def test_one_bit():
    bits = np.array([[True, False, True], [False, True, False]])
    loaded = load_image(encode(Image.fromarray(bits)))
    np.testing.assert_array_equal(loaded[:, :, 1], bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_keeps_its_range(kind):
    deep = np.array([[0, 257, 32768], [65535, 514, 40000]], np.uint16)
    loaded = load_image(encode(Image.fromarray(deep), kind))
    np.testing.assert_array_equal(loaded[:, :, 0], deep // 257)


def test_floating_point_tiff():
    values = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    loaded = load_image(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(loaded[:, :, 2], [[0, 128], [255, 64]])
    np.testing.assert_array_equal(
        load_image(encode(Image.fromarray(values * 200), "TIFF"))[:, :, 0], [[0, 100], [200, 50]]
    )


def test_palette(quarters):
    palette = Image.fromarray(quarters).quantize(4)
    assert palette.mode == "P"
    np.testing.assert_array_equal(load_image(encode(palette)), quarters)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency_is_laid_over_white(quarters, kind):
    palette = Image.fromarray(quarters).quantize(4)
    transparent = palette.getpixel((2, 2))
    loaded = load_image(encode(palette, kind, transparency=transparent))
    assert corners(loaded) == [WHITE, GREEN, BLUE, WHITE]


def test_palette_with_alpha_per_colour(quarters):
    palette = Image.fromarray(quarters).quantize(4)
    alphas = bytearray(b"\xff" * 4)
    alphas[palette.getpixel((2, 2))] = 51
    loaded = load_image(encode(palette, transparency=bytes(alphas)))
    assert corners(loaded)[0] == (255, 204, 204)


def test_alpha_is_laid_over_white():
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[:, :2] = (200, 0, 0, 51)  # a fifth of it is there
    pixels[:, 2:] = (9, 9, 9, 0)
    for source in (encode(Image.fromarray(pixels)), pixels):
        loaded = load_image(source)
        assert tuple(loaded[1, 0]) == (244, 204, 204)
        assert tuple(loaded[1, 3]) == WHITE
    grey = load_image(encode(Image.fromarray(pixels).convert("LA")))
    assert tuple(grey[1, 3]) == WHITE


def test_cmyk_jpeg(quarters):
    big = np.repeat(np.repeat(quarters, 4, axis=0), 4, axis=1)
    loaded = load_image(encode(Image.fromarray(big).convert("CMYK"), "JPEG", quality=95))
    assert loaded.shape == (56, 88, 3)
    assert np.abs(np.array(corners(loaded)) - [RED, GREEN, BLUE, WHITE]).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(quarters, orientation):
    # How a camera stores an upright picture so that the viewer has to turn it back.
    stored = {
        1: quarters,
        2: quarters[:, ::-1],
        3: quarters[::-1, ::-1],
        4: quarters[::-1],
        5: quarters.transpose(1, 0, 2),
        6: np.rot90(quarters, 1),
        7: quarters.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(quarters, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    np.testing.assert_array_equal(load_image(encode(image, exif=exif)), quarters)
    jpeg = load_image(encode(image, "JPEG", exif=exif, quality=95, subsampling=0))
    assert np.abs(np.array(corners(jpeg)) - np.array(corners(quarters))).max() < 12


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remark
def test_damaged_exif_leaves_the_picture_as_it_is(quarters):
    data = encode(Image.fromarray(quarters), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert load_image(data).shape == (14, 22, 3)


def test_animation_gives_its_first_frame(quarters):
    frames = [Image.fromarray(quarters), Image.fromarray(255 - quarters)]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        np.testing.assert_array_equal(load_image(data), quarters)


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
def test_one_pixel_becomes_a_square_of_its_colour(fit):
    loaded = load_image(encode(Image.new("RGB", (1, 1), (10, 120, 200))), 5, fit=fit)
    np.testing.assert_array_equal(loaded, np.full((5, 5, 3), (10, 120, 200)))


def test_fits(quarters):
    squeezed = load_image(quarters, 10)
    assert corners(squeezed) == [RED, GREEN, BLUE, WHITE]
    np.testing.assert_array_equal(load_image(quarters, 14, fit="crop"), quarters[:, 4:18])
    padded = load_image(quarters, 22, fit="pad")
    np.testing.assert_array_equal(padded[4:18], quarters)
    assert not padded[:4].any()
    assert not padded[18:].any()
    assert load_image(np.full((1, 500), 9, np.uint8), 7, fit="pad").shape == (7, 7, 3)


def test_scaling_down_averages():
    checks = (np.indices((60, 60)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(load_image(checks, 6).astype(int) - 127).max() < 12


@pytest.mark.parametrize("size", [32, 150, 211])
def test_a_large_jpeg_decoded_small_looks_as_if_decoded_whole(size):
    waves = np.add.outer(np.sin(np.arange(600) / 3), np.sin(np.arange(800) / 4)) * 60 + 128
    data = encode(
        Image.fromarray(np.stack([waves, 255 - waves, waves / 2], axis=2).astype(np.uint8)), "JPEG", quality=95
    )
    for fit in ("squeeze", "crop", "pad"):
        fast, whole = load_image(data, size, fit=fit), load_image(load_image(data), size, fit=fit)
        assert np.abs(fast.astype(int) - whole).mean() < 3


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 5), 200, np.uint8),
        np.full((3, 5, 1), 200, np.uint8),
        np.full((3, 5, 3), 200 * 257, np.uint16),
        np.full((3, 5, 3), 200 / 255, np.float32),
        np.full((3, 5, 3), 200 / 255),
    ],
)
def test_arrays_of_several_kinds(array):
    np.testing.assert_array_equal(load_image(array), np.full((3, 5, 3), 200))
    np.testing.assert_array_equal(load_image(np.ones((2, 2), bool)), np.full((2, 2, 3), 255))


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((2, 3, 5), np.uint8), ValueError, r"must have shape .* got \(2, 3, 5\)"),
        (np.zeros((0, 3), np.uint8), ValueError, r"none of them 0; got \(0, 3\)"),
        (np.zeros((2, 3), np.int64), TypeError, "must be uint8, uint16, bool or float .* got int64"),
        (np.full((2, 3), 2.0), ValueError, r"float image must lie in \[0, 1\]; got 2 to 2"),
        (np.full((2, 3), np.nan), ValueError, r"float image must lie in \[0, 1\]; got nan"),
    ],
)
def test_arrays_that_are_no_pictures(array, error, message):
    with pytest.raises(error, match=message):
        load_image(array)


def test_unknown_fit_and_size(quarters):
    with pytest.raises(ValueError, match="fit must be one of squeeze, crop, pad; got 'stretch'"):
        load_image(quarters, 8, fit="stretch")
    with pytest.raises(ValueError, match="size must be at least 1 pixel; got 0"):
        load_image(quarters, 0)


def bomb(width, height):
    """A PNG of a few bytes whose header promises a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def photograph():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return Image.fromarray(noise)


BROKEN = {
    "text.jpg": (b"This is a letter,\nnot a photograph.\n", r"got a file that is none \(it begins with \['This'\]\)"),
    "bytes.jpg": (b"\x80\x81\x82\x83" * 20, "it begins with the bytes 80 81 82 83"),
    "empty.jpg": (b"", "expected an image, got an empty file"),
    "truncated.jpg": (encode(photograph(), "JPEG")[:-700], "the JPEG image is truncated or damaged"),
    "header.jpg": (
        encode(photograph(), "JPEG")[:20],
        r"JPEG image is truncated or damaged \(its header ends early",
    ),
    "truncated.png": (encode(photograph())[:-700], "the PNG image is truncated or damaged"),
    "bomb.png": (bomb(30_000, 30_000), r"at most 100 megapixels, got 30000 x 30000 = 900 \(a decompression bomb\?\)"),
    "small_bomb.png": (bomb(11_000, 10_000), "at most 100 megapixels, got 11000 x 10000 = 110"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "got a file that is none"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_in_one_line(tmp_path, name):
    data, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    for size in (None, 8):
        with pytest.raises(InputError, match=message) as error:
            load_image(path, size)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.jpg: expected an image, but there is no such file"):
        load_image(tmp_path / "nothing.jpg")
    with pytest.raises(InputError, match="expected an image file, got a folder"):
        load_image(tmp_path)
    with pytest.raises(InputError, match="image bytes: expected an image, got an empty file"):
        load_image(b"")


def test_limit_of_pixels_is_the_callers_and_pillows_stays():
    limit = Image.MAX_IMAGE_PIXELS
    data = encode(Image.new("L", (200, 100)))
    with pytest.raises(InputError, match=r"at most 0\.01 megapixels, got 200 x 100"):
        load_image(data, max_megapixels=0.01)
    assert load_image(data, max_megapixels=0.02).shape == (100, 200, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks on damaged parts
def test_any_damage_is_an_input_error():
    """Flips and cuts bytes at random: the result is a picture or an InputError, never another error."""
    rng = np.random.default_rng(1)
    image = Image.fromarray(np.asarray(photograph())[:24, :24])
    outcomes = {True: 0, False: 0}
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        whole = encode(image, kind)
        for _ in range(30):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(len(data), size=3):
                data[place] = rng.integers(256)
            try:
                # A header can claim any size; nothing larger than this is decoded.
                load_image(bytes(data), 8, max_megapixels=1)
                outcomes[True] += 1
            except InputError as error:
                assert "\n" not in str(error)
                outcomes[False] += 1
    assert outcomes[False] > 50


def write_set(folder, broken=("b.jpg", "d.jpg")):
    paths = [folder / f"{letter}.jpg" for letter in "abcde"]
    for number, path in enumerate(paths):
        path.write_bytes(
            b"no" if path.name in broken else encode(Image.new("RGB", (9, 7), (number * 40, 0, 0)), "JPEG")
        )
    return paths


def test_check_images_reports_counts_and_goes_on(tmp_path, caplog):
    paths = write_set(tmp_path)
    lines = []
    good, broken = check_images(paths, report=lines.append)
    assert [path.name for path in good] == ["a.jpg", "c.jpg", "e.jpg"]
    assert [path.name for path, _ in broken] == ["b.jpg", "d.jpg"]
    assert lines == [broken[0][1], broken[1][1], "2 of 5 pictures are broken and left out"]
    check_images(map(str, paths))
    assert "2 of 5 pictures are broken" in caplog.text
    assert check_images(good) == (good, [])
    assert check_images([]) == ([], [])


def test_check_images_stops_on_request_or_when_none_is_left(tmp_path):
    paths = write_set(tmp_path)
    with pytest.raises(InputError, match=r"b\.jpg: expected an image"):
        check_images(paths, on_broken="stop")
    with pytest.raises(InputError, match=r"all 2 files are broken; the first: .*b\.jpg"):
        check_images([paths[1], paths[3]], report=lambda line: None)
    with pytest.raises(ValueError, match="on_broken must be 'skip' or 'stop'; got 'ignore'"):
        check_images(paths, on_broken="ignore")


def test_decode_images_equals_one_by_one(tmp_path):
    paths = write_set(tmp_path, broken=())
    images = decode_images(paths, 5, fit="crop")
    np.testing.assert_array_equal(images, np.stack([load_image(path, 5, fit="crop") for path in paths]))
    assert images.dtype == np.uint8


def test_decode_images_refuses_what_is_too_much_or_broken(tmp_path):
    paths = write_set(tmp_path)
    with pytest.raises(InputError, match=r"at most 0\.1 MB of decoded pictures, got 5 of 100 x 100 = 0\.15 MB"):
        decode_images(paths, 100, max_memory_mb=0.1)
    with pytest.raises(InputError, match=r"b\.jpg: expected an image"):
        decode_images(paths, 5)
