"""Build the one data set behind every embedded model: emoji in seven drawing styles, 32 x 32 RGB on white.

Reads the npm packages `@iconify-json/{twemoji,noto,noto-v1,fluent-emoji,fluent-emoji-flat,emojione,fxemoji}`,
`emojibase-data` and `unicode-emoji-json` from a `node_modules` folder, matches drawings to Unicode names, renders
them, and writes one `.npz`. It downloads nothing and trains nothing.

    npm install @iconify-json/{twemoji,noto,noto-v1,fluent-emoji,fluent-emoji-flat,emojione,fxemoji} \
        emojibase-data unicode-emoji-json
    python -m training.emoji --npm node_modules --out emoji32.npz
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from itertools import chain
from multiprocessing import Pool
from pathlib import Path

import numpy as np

SETS = {
    "twemoji": "twemoji",
    "noto": "noto",
    "noto-v1": "blob",
    "fluent-emoji": "glossy",
    "fluent-emoji-flat": "flat",
    "emojione": "emojione",
    "fxemoji": "firefox",
}
"""npm package name -> the style word used in captions."""

CLASSES = {
    "face": "face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell "
    "face-hat face-glasses face-concerned face-negative",
    "person": "person person-role person-fantasy person-gesture person-activity person-sport",
    "hand": "hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands hand-prop",
    "animal": "animal-mammal animal-bird animal-reptile animal-amphibian animal-marine animal-bug cat-face monkey-face",
    "plant": "plant-flower plant-other food-fruit food-vegetable",
    "food": "food-prepared food-asian food-sweet drink",
    "vehicle": "transport-ground transport-water transport-air",
    "building": "place-building place-religious",
    "clothing": "clothing",
    "heart": "heart",
    "clock": "time",
    "flag": "country-flag",
}
"""Class name -> the Unicode subgroups it gathers. The order is the class index of every embedded model."""

SKIN_TONES = {1: "light", 2: "medium light", 3: "medium", 4: "medium dark", 5: "dark"}
SIZE, CANVAS, MARGIN = 32, 128, 1.08


def slug(text: str) -> str:
    """ASCII name with dashes, as icon sets spell their keys."""
    text = text.lower().replace("’", "").replace("'", "").translate(str.maketrans("ñéãíôçåü", "neaiocau"))
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def concepts(npm: Path) -> list[tuple[set[str], int, str, str, int]]:
    """Every emoji of the twelve classes: (possible icon keys, class, Unicode hexcode, caption, skin tone or 0)."""
    emoji = json.loads((npm / "emojibase-data/en/data.json").read_text())
    messages = json.loads((npm / "emojibase-data/en/messages.json").read_text())
    by_emoji = json.loads((npm / "unicode-emoji-json/data-by-emoji.json").read_text())
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    class_of = {sub: index for index, subs in enumerate(CLASSES.values()) for sub in subs.split()}
    items = []
    for entry in emoji:
        subgroup = subgroups.get(entry.get("subgroup"))
        if subgroup not in class_of:
            continue
        label, caption = entry["label"], entry["label"].replace(":", ",")
        keys = {slug(label), by_emoji.get(entry["emoji"], {}).get("slug", "").replace("_", "-")} - {""}
        if subgroup == "country-flag":
            country = label.removeprefix("flag: ")
            keys |= {f"flag-{slug(country)}", f"flag-for-{slug(country)}", f"{slug(country)}-flag"}
            caption = f"flag of {country}"
        items.append((keys, class_of[subgroup], entry["hexcode"], caption.lower(), 0))
        for skin in entry.get("skins", []):
            if isinstance(skin["tone"], list):
                continue
            tone = SKIN_TONES[skin["tone"]]
            spelled = {f"{key}-{slug(tone)}-skin-tone" for key in keys} | {slug(skin["label"])}
            items.append(
                (spelled, class_of[subgroup], entry["hexcode"], f"{caption}, {tone} skin tone".lower(), skin["tone"])
            )
    return items


def draw(svg: str) -> np.ndarray | None:
    """Render one SVG, crop to what is drawn with a small margin, put it on white: uint8 [32, 32, 3]."""
    import resvg_py
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    except (ValueError, OSError):
        return None
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 20 else 0).getbbox()
    if box is None:
        return None
    half = max(box[2] - box[0], box[3] - box[1]) * MARGIN / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    extent = (x - half, y - half, x + half, y + half)
    cropped = canvas.convert("RGB").transform(
        (CANVAS, CANVAS), Image.Transform.EXTENT, extent, Image.Resampling.BICUBIC, fillcolor="white"
    )
    return np.asarray(cropped.resize((SIZE, SIZE), Image.Resampling.BOX))


def render_set(job: tuple[Path, str]) -> list[tuple]:
    """All matched drawings of one icon set: (pixels, class, hexcode, caption, skin tone, style word)."""
    npm, name = job
    icons = json.loads((npm / "@iconify-json" / name / "icons.json").read_text())
    bodies, aliases = icons["icons"], icons.get("aliases", {})
    spelling: dict[str, str] = {}
    for key in [*bodies, *aliases]:
        spelling.setdefault(key.replace("-", ""), key)
    drawn, used = [], set()
    for keys, label, hexcode, caption, tone in concepts(npm):
        key = next((spelling[k.replace("-", "")] for k in sorted(keys) if k.replace("-", "") in spelling), None)
        while key in aliases:
            key = aliases[key]["parent"]
        if key is None or key in used or key not in bodies:
            continue
        used.add(key)
        icon = bodies[key]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        side = max(width, height)
        left = icon.get("left", icons.get("left", 0)) - (side - width) / 2
        top = icon.get("top", icons.get("top", 0)) - (side - height) / 2
        pixels = draw(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {side} {side}" width="{CANVAS}" height="{CANVAS}">{icon["body"]}</svg>'
        )
        if pixels is not None:
            drawn.append((pixels, label, hexcode, caption, tone, SETS[name]))
    return drawn


def bucket(*parts: str) -> int:
    """A number in 0..9 that depends on the text only, so a split never moves when drawings are added."""
    return hashlib.sha256("/".join(parts).encode()).digest()[0] % 10


def split_of(hexcode: str, style: str, tone: int) -> str:
    """`held-out-concepts` (10% of concepts, every style), `held-out-images` (10% of the rest) or `train`.

    Skin-tone variants of a held-out concept or drawing belong to no split (`unused`): they are near copies.
    """
    if bucket("concept", hexcode) == 0:
        return "held-out-concepts" if tone == 0 else "unused"
    if bucket("image", hexcode, style) == 0:
        return "held-out-images" if tone == 0 else "unused"
    return "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True, help="the node_modules folder")
    parser.add_argument("--out", type=Path, default=Path("emoji32.npz"))
    args = parser.parse_args()
    with Pool() as pool:
        drawn = list(chain(*pool.map(render_set, [(args.npm, name) for name in SETS], chunksize=1)))
    pixels, label, hexcode, caption, tone, style = zip(*drawn, strict=True)
    split = [split_of(*key) for key in zip(hexcode, style, tone, strict=True)]
    np.savez_compressed(
        args.out,
        pixels=np.stack(pixels),
        label=np.array(label, np.int64),
        concept=np.array(hexcode),
        caption=np.array(caption),
        tone=np.array(tone, np.int64),
        style=np.array(style),
        split=np.array(split),
        classes=np.array(list(CLASSES)),
    )
    print(f"{args.out}: {len(pixels)} images, " + ", ".join(f"{split.count(s)} {s}" for s in sorted(set(split))))
    print({name: label.count(index) for index, name in enumerate(CLASSES)})


if __name__ == "__main__":
    main()
