"""Pictures that users upload and that need care: damaged, huge, 16-bit, animated and so on."""

import struct
import zlib

import numpy as np
from PIL import Image

# Stained everywhere; each place is different; smooth enough for JPEG.
REGION = np.stack(
    [
        200 - 40 * np.cos(np.linspace(0, 9, 200))[None] * np.ones((150, 1)),
        90 + 40 * np.sin(np.linspace(0, 7, 150))[:, None] * np.ones(200),
        170 + 30 * np.cos(np.linspace(0, 5, 150))[:, None] * np.sin(np.linspace(0, 3, 200)),
    ],
    axis=-1,
).astype("uint8")


def png_16_bit(path):
    """Write a PNG of 16 bits per channel. Pillow can read such files but not write them."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in REGION.astype("uint16") * 257)
    header = struct.pack(">IIBBBBB", 200, 150, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def huge_png(path, width=20_000, height=3_000):
    """Write a small file whose header claims a size of 60 megapixels, or another one."""
    png_16_bit(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[24] = 8
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)


def make(folder, kind):
    """Write a picture of a kind and return its path."""
    picture = Image.fromarray(REGION)
    path = folder / f"{kind}.png".replace(" ", "_")
    if kind == "huge":
        huge_png(path)
    elif kind == "gigapixel":
        huge_png(path, 40_000, 30_000)
    elif kind == "16-bit":
        png_16_bit(path)
    elif kind == "16-bit grey":
        Image.fromarray(REGION[..., 0].astype("uint16") * 257).save(path)
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        picture.save(path)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "truncated JPEG":
        path = path.with_suffix(".jpg")
        picture.save(path, quality=95)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "corrupt":
        picture.save(path)
        content = bytearray(path.read_bytes())
        content[200:260] = bytes(60)
        path.write_bytes(content)
    elif kind in ("animated PNG", "GIF", "animated WebP"):
        path = path.with_suffix({"GIF": ".gif", "animated WebP": ".webp"}.get(kind, ".png"))
        picture.save(path, save_all=True, append_images=[picture.rotate(180)])
    elif kind == "tiny":
        picture.crop((0, 0, 200, 40)).save(path)
    elif kind == "float":
        path = path.with_suffix(".tif")
        Image.fromarray(REGION[..., 0].astype("float32")).save(path)
    return path
