"""Commands as a careless or unlucky user types them: what lies in the folder, and what is typed after `trace`.

Every one is refused before anything is written. `run` is a whole run of 3 samples and 4 steps under R4S32, `mine` a
folder with somebody's own file, `empty` an empty folder, `file` a file.
"""

SMALL = "--no-floor --samples 2 --steps 4"
SPECS = (
    *("R4S32x", "r4s32", "R-4S2", "R4", "D1.5A1", "D0A1", "D.25", "K999N8", "K0N8", "sink-k0", "sink-k999", "sink-5"),
    *("R4S32@layers=6", "R4S32@layers=0:99", "R4S32@steps=4", "R4S32@steps=3:2", "R4S32@steps=0.5:1.5"),
    *("R4S32@strength=2", "R4S32@queries=txt", "R4S32@layer=3", "R4S32@keys=text", "R4S32;layers=3", "random-k300"),
    *("", "  ", "R4S999", "sink-k5@source=foo", "R1.5S2", "R4S32@layers=0-10000", "R4S32@layers=1,1"),
    *("R" + "9" * 20_000, "R" + "9" * 400 + "S1", f"R4S32@pause={'9' * 300}:0.5", f"R4S32@steps=0:{'9' * 300}"),
    *(f"D1e999A{'9' * 300}", f"K{'9' * 300}N8", f"sink-k{'9' * 300}", "R4S32@strength=nan", "R4S32@strength=1e999"),
    *("R4S32@" + "layers=1;" * 300, "R4S32@@@", "R4S32@=;=", "R٤S٣٢", "R4S32\x1b[31m"),
)
RUN = {
    "no mask": f"run {SMALL}",
    "no step": "run --mask R4S32 --samples 2 --steps 0",
    "negative steps": "run --mask R4S32 --samples 2 --steps -5",
    "more steps than there are": "run --mask R4S32 --samples 2 --steps 2000",
    "huge steps": f"run --mask R4S32 --samples 2 --steps {'9' * 40}",
    "half a step": "run --mask R4S32 --steps 2.5",
    "no sample": "run --mask R4S32 --samples 0 --steps 4",
    "negative samples": "run --mask R4S32 --samples -1 --steps 4",
    "a billion samples": "run --mask R4S32 --samples 1000000000 --steps 250",
    "a billion paths": "run --mask R4S32 --samples 2 --paths 1000000000 --steps 250",
    "no batch": f"run --mask R4S32 --batch-size 0 {SMALL}",
    "guidance nan": f"run --mask R4S32 --guidance nan {SMALL}",
    "guidance inf": f"run --mask R4S32 --guidance inf {SMALL}",
    "negative seed": f"run --mask R4S32 --seed -7 {SMALL}",
    "huge seed": f"run --mask R4S32 --seed 99999999999999999999999 {SMALL}",
    "seed of letters": f"run --mask R4S32 --seed lucky {SMALL}",
    "negative mask seed": f"run --mask R4S32 --mask-seed -1 {SMALL}",
    "huge mask seed": f"run --mask R4S32 --mask-seed 99999999999999999999999 {SMALL}",
    "negative seed, sd3": f"run --model sd3 --mask sink-k1 --seed -1 {SMALL}",
    "sampler of others": f"run --mask R4S32 --sampler euler {SMALL}",
    "sampler for flows": f"run --mask R4S32 --sampler flow {SMALL}",
    "sampler for noise": f"run --model sd3 --mask R4S32 --sampler ddpm {SMALL}",
    "device gpu": f"run --mask R4S32 --device gpu {SMALL}",
    "device cuda:99": f"run --mask R4S32 --device cuda:99 {SMALL}",
    "device mps": f"run --mask R4S32 --device mps {SMALL}",
    "device meta": f"run --mask R4S32 --device meta {SMALL}",
    "dtype fp16": f"run --mask R4S32 --dtype fp16 {SMALL}",
    "model flux": f"run --model flux --mask R4S32 {SMALL}",
    "model in capitals": f"run --model DiT --mask R4S32 {SMALL}",
    "no weights of sdxl": f"run --model sdxl --mask R4S32 {SMALL}",
    "no such class": f"run --mask R4S32 --classes catt {SMALL}",
    "no such class number": f"run --mask R4S32 --classes 99 {SMALL}",
    "record misspelt": f"run --mask R4S32 --record norm,latent {SMALL}",
    "prompts for classes": f"run --mask R4S32 --prompts emoji {SMALL}",
    "classes for prompts": f"run --model sd3 --mask R4S32 --classes cat {SMALL}",
    "no worker": f"run --mask R4S32 --workers 0 {SMALL}",
    "negative workers": f"run --mask R4S32 --workers -2 {SMALL}",
    "workers and scheduler": f"run --mask R4S32 --workers 2 --scheduler tcp://127.0.0.1:1 {SMALL}",
    "nothing to resume": f"run --mask R4S32 --resume {SMALL}",
    "coupled flow paths": f"run --model sd3 --mask sink-k1 --paths 3 {SMALL}",
    "option misspelt": "run --masks R4S32",
}
OUT = {
    "out is a file": f"run --mask R4S32 --out file {SMALL}",
    "out is below a file": f"run --mask R4S32 --out file/x {SMALL}",
    "out is somebody's": f"run --mask R4S32 --out mine {SMALL}",
    "out is a run": f"run --mask R4S32 --out run {SMALL}",
    "out is here": f"run --mask R4S32 --out . {SMALL}",
    "out is a device": f"run --mask R4S32 --out /dev/full {SMALL}",
    "out is no place": f"run --mask R4S32 --out /proc/x {SMALL}",
    "out is nobody's": f"run --mask R4S32 --out=~nobody-of-this-name/x {SMALL}",
    "out is too long": f"run --mask R4S32 --out {'x' * 300} {SMALL}",
    "resume somebody's": f"run --mask R4S32 --resume --out mine {SMALL}",
    "resume a file": f"run --mask R4S32 --resume --out file {SMALL}",
    "resume other steps": "run --mask R4S32 --resume --out run --samples 3 --steps 9",
    "resume another mask": "run --mask R5S32 --resume --out run --samples 3 --steps 4",
    "resume more samples": "run --mask R4S32 --resume --out run --samples 5 --steps 4",
    "resume another dtype": "run --mask R4S32 --resume --out run --samples 3 --steps 4 --dtype bfloat16",
    "analyze to a file": "analyze growth run --out file",
    "analyze to no place": "analyze growth run --out /proc/x",
    "report to a folder": "report run --out mine",
    "report below nothing": "report run --out a/b/c.html",
    "mask to a folder": "mask R4S32 --out mine",
    "mask in no format": "mask R4S32 --out a.xyz",
    "mask below nothing": "mask R4S32 --out a/b.png",
    "sweep to somebody's": "sweep classify --mask R4S32 --limit 8 --out mine",
    "depth to somebody's": "sweep depth --mask R4S32 --out mine",
    "reproduce to a file": "reproduce growth --out file",
}
PROMPTS = {
    "an empty file": "empty.txt",
    "blank lines": "blank.txt",
    "no text": "binary.txt",
    "latin1": "latin1.txt",
    "one long line": "long.txt",
    "a huge file": "huge.txt",
    "broken JSON": "broken.jsonl",
    "no prompt in it": "key.jsonl",
    "a number": "number.jsonl",
    "nested without end": "nested.jsonl",
    "half a letter": "surrogate.jsonl",
    "a folder": "mine",
    "a file that is not there": "nowhere.txt",
}
CHECKPOINT = {
    "no folder": "run --model dit --checkpoint ./nowhere --mask sink-k1 " + SMALL,
    "a file": "run --model dit --checkpoint ./file --mask sink-k1 " + SMALL,
    "an empty folder": "run --model dit --checkpoint ./empty --mask sink-k1 " + SMALL,
    "none of that name": "run --model dit --checkpoint embedded:nothing --mask sink-k1 " + SMALL,
    "of another family": "run --model dit --checkpoint embedded:sd3 --mask sink-k1 " + SMALL,
}
SHOW = {
    "no run": "analyze growth",
    "analysis misspelt": "analyze grwth",
    "run that is not there": "analyze growth runs/none",
    "a file": "analyze growth file",
    "an empty folder": "analyze growth empty",
    "two runs for one": "analyze growth run run",
    "not recorded": "analyze decompose run",
    "no windows": "analyze impulse run",
    "no parts": "analyze counterfactual run",
    "with itself": "analyze compare run run",
    "one to compare": "analyze compare run",
    "no depth": "analyze depth run",
    "metric of prompts": "analyze quality run --metric clip-t",
    "metric misspelt": "analyze quality run --metric fidd",
    "weights without a name": "analyze quality run --metric hps --weights hps",
    "option of another": "analyze growth run --primary R4S32",
    "primary that was not run": "analyze verdict run --primary R9S9",
    "null of no name": "analyze steps run --null foo",
    "steps that were not run": "analyze verdict run --at -3",
    "steps' option of another": "analyze steps run --at 5",
    "show nothing": "show nowhere",
    "show a file": "show file",
    "runs of none": "runs --root . --model none",
    "report of no run": "report",
    "report of nothing": "report nowhere",
    "report of two, one of them nothing": "report run nowhere",
    "score of nothing": "score nowhere",
}
OTHER = {
    "mask of no kind": "mask foo",
    "mask that moves": "mask sink-k5",
    "grid of one side": "mask R4S32 --grid 16",
    "grid of nothing": "mask R4S32 --grid 0x0",
    "grid without end": "mask R4S32 --grid 999x999",
    "negative grid": "mask R4S32 --grid -4x4",
    "mask of a negative seed": "mask R4S32 --mask-seed -1",
    "no such recipe": "reproduce foo",
    "no recipe": "reproduce",
    "command misspelt": "analyse growth",
    "command half typed": "rn --mask R4S32",
    "study misspelt": "counterfactual impulze --mask R4S32",
    "study without a mask": "counterfactual impulse",
    "counts of letters": "counterfactual steps --mask R4S32 --counts a,b",
    "a negative count behind a good one": "counterfactual steps --mask R4S32 --counts 5,-1 --samples 2",
    "every 0": "counterfactual impulse --mask R4S32 --every 0",
    "dose of the floor": f"counterfactual dose --mask full {SMALL}",
    "sampler twice": f"counterfactual sampler --model sd3 --mask sink-k1 {SMALL}",
    "sweep of nothing": "sweep classify",
    "density 0": "sweep classify --density 0 --limit 8",
    "density 2": "sweep classify --density 2 --limit 8",
    "density in percent": "sweep classify --density 25 --limit 8",
    "timm misspelt": "sweep classify --model vit_large --mask R4S32 --limit 8",
    "no data": "sweep classify --mask R4S32 --data nowhere",
    "flat data": "sweep classify --mask R4S32 --data mine",
    "family misspelt": "sweep classify --family lokal --density .25",
    "limit 0": "sweep classify --mask R4S32 --limit 0",
    "negative limit": "sweep classify --mask R4S32 --limit -5",
    "sweep on meta": "sweep classify --mask R4S32 --device meta --limit 8",
    "sweep of no layer": "sweep classify --mask R4S32@layers=99 --limit 8",
    "sweep of steps": "sweep classify --mask R4S32@steps=0:2 --limit 8",
    "other people's GELU": "sweep retrieve --model ViT-B-32 --mask R2S4 --limit 8",
    "no captions": "sweep retrieve --mask R4S32 --data . --captions nowhere.json",
    "captions of no kind": "sweep retrieve --mask R4S32 --data . --captions captions.json",
    "captions alone": "sweep retrieve --mask R4S32 --captions captions.json",
    "gallery too large": "sweep retrieve --mask R4S32 --gallery 100000 --limit 16",
    "weights that run code": "sweep classify --model vit_tiny_patch16_224 --checkpoint evil.pth --mask R2S8 --limit 4",
    "depth without a mask": "sweep depth",
    "depth of one": "sweep depth --mask R4S32 --samples 1",
    "no mask seed": "sweep classify --mask R4S32 --mask-seeds 0",
}
SLIPS = {
    # commands, options, words of one kind
    "anlayze growth": "trace analyze",
    "modles": "trace models",
    "counterfactuals impulse": "trace counterfactual",
    "analyze grwoth": "trace analyze growth",
    "analyze Verdict": "trace analyze verdict",
    "sweep clasify": "trace sweep classify",
    "completion bsh": "bash",
    "run --mask R4S32 --smaples 2": "--samples",
    "run --mask R4S32 --step 4": "--steps",
    "gate --mask R4S32 --step 4": "--steps",
    "run --masks R4S32": "--mask",
    "analyze growth --formats svg": "--format",
    "sweep classify --desnity 0.25": "--density",
    "verify run --jsn": "--json",
    "analyze growth --format pgn": "png",
    "analyze verdict --null gausian": "gaussian",
    "sweep classify --split held-out-image": "held-out-images",
    "sweep retrieve --tower imgae": "image",
    "sweep classify --family lokal --density .25": "local",
    "sweep classify --family Small_World --density .25": "small-world",
    "reproduce sinks-budget --scale papre": "paper",
    # what is run
    "run --model ditt --mask R4S32": "dit",
    "run --model SD3 --mask sink-k1": "sd3",
    "run --checkpoint embedded:dit-haf --mask R4S32": "embedded:dit-half",
    "run --checkpoint embeded:dit --mask R4S32": "embedded:dit",
    "run --checkpoint ./mien --mask R4S32": "mine",
    "run --mask R4S32 --sampler dppm": "ddpm",
    "run --mask R4S32 --noise couplde": "coupled",
    "run --mask R4S32 --dtype bf16": "bfloat16",
    "run --mask R4S32 --device cdua": "cuda",
    "run --mask R4S32 --device gpu": "cuda",
    "run --mask R4S32 --classes fcae": "face",
    "run --mask R4S32 --classes face,Hnad": "hand",
    "run --mask R4S32 --record latent": "latents",
    "run --mask R4S32 --record norms,verdct": "verdict",
    "run --model sd3 --mask sink-k1 --prompts emjoi": "emoji",
    "run --model sd3 --mask sink-k1 --prompts latin.txt": "latin1.txt",
    "sweep classify --model vitt --mask R4S32": "vit",
    "sweep retrieve --model clipp --mask R4S32": "clip",
    "sweep retrieve --model ViT-B-32 --pretrained opnai --mask R4S32": "openai",
    # masks
    "run --mask sinks-k5": "sink-k5",
    "run --mask snik-k5": "sink-k5",
    "run --mask sink5": "sink-k5",
    "run --mask R4-S32": "R4S32",
    "run --mask S32R4": "R4S32",
    "run --mask k64n8": "K64N8",
    "run --mask D0.25-A1": "D0.25A1",
    "run --mask randm-k5": "random-k5",
    "run --mask botom-k5": "bottom-k5",
    "run --mask sink-k5-vlaue": "-value",
    "run --mask claen": "clean",
    "run --mask R4S32@layer=3": "layers",
    "run --mask R4S32@stpes=0:2": "steps",
    "run --mask sink-k5@keys=imgae": "image",
    "run --mask sink-k5@source=claen": "clean",
    "mask R4S23x": "R4S32",
    "mask sinks": "sink-k5",
    # runs and what is asked of them
    "analyze growth rnu": "run",
    "show ./rnu": "run",
    "report rnu": "run",
    "verify rnu": "run",
    "score rnu": "run",
    "runs --root rnu": "run",
    "runs --root . --mask R4S33": "R4S32",
    "runs --root . --model dti": "dit",
    "models pixart-alfa": "PixArt-alpha",
    "analyze verdict run --primary R4S23": "R4S32",
    "analyze quality run --metric pixel": "pixels",
    "analyze sinks run --metric lpip": "lpips",
    "score run --metric clipt": "clip-t",
    "score run --weights lipps=x": "lpips",
    "score run --metric cmmd --reference held_out": "held-out",
    # studies and recipes
    "counterfactual impluse --mask R4S32": "impulse",
    "reproduce sinks-perceptal": "sinks-perceptual",
    "reproduce paper": "papers",
    "reproduce sinks-perceptual --with sampels=3": "samples",
    "reproduce papers --with scroing=x": "scoring",
    "reproduce ./mine/studdy.toml": "mine/study.toml",
}
"""A slip -> the name that it is answered with."""
COMMANDS = {
    **{f"spec {spec[:40]!r} {len(spec)}": ["run", "--mask", spec, *SMALL.split()] for spec in SPECS},
    **{
        f"prompts: {what}": ["run", "--model", "sd3", "--mask", "sink-k1", "--prompts", file, *SMALL.split()]
        for what, file in PROMPTS.items()
    },
    **{f"out: {what}": line.split() for what, line in OUT.items()},
    **{f"checkpoint: {what}": line.split() for what, line in CHECKPOINT.items()},
    **{what: line.split() for table in (RUN, SHOW, OTHER) for what, line in table.items()},
}
"""What is wrong -> the words after `trace`."""


class Evil:
    """A pickle that makes a folder when it is opened."""

    def __reduce__(self):
        import os

        return os.mkdir, ("opened",)


def lay_out(folder):
    """Put into a folder what the commands find there, all but the run."""
    import pickle

    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("years of work")
    (folder / "mine" / "study.toml").write_text('about = "nothing yet"')
    (folder / "empty").mkdir()
    (folder / "file").write_text("a file")
    (folder / "captions.json").write_text("[1, 2]")
    (folder / "evil.pth").write_bytes(pickle.dumps(Evil()))
    texts = {
        "empty.txt": "",
        "blank.txt": "\n \n\n",
        "long.txt": "word " * 2_000_000,
        "huge.txt": "a red heart\n" * 2_000_000,
        "broken.jsonl": '{"prompt": "a"',
        "key.jsonl": '{"text": "a red heart"}',
        "number.jsonl": '{"prompt": 7}',
        "nested.jsonl": "[" * 3000,
        "surrogate.jsonl": '{"prompt": "\\ud800 heart"}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.txt").write_bytes(bytes(range(128, 256)))
    (folder / "latin1.txt").write_bytes("un café".encode("latin1"))
